"""What was not measured is found in files of any kind, and gets into no value that was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fcmae.data.dataset import seeded
from fcmae.data.decode import BrokenImage, read_image
from fcmae.data.transforms import RandomCropFlip, resize_center_crop, to_float
from fcmae.data.validity import THERE, NoData, fill_gaps, split_validity

H, W = 24, 40


def values_of(shape: tuple[int, ...], top: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) * top


def gaps_of(channels: int) -> np.ndarray:
    """A corner that no channel has, and a stripe that the first lacks."""
    gaps = np.zeros((H, W, channels), bool)
    gaps[:9, :13] = True
    gaps[15:17, :, 0] = True
    return gaps


def save_tiff(path: Path, array: np.ndarray) -> None:
    planar = {"planarconfig": "contig"} if array.shape[2] > 1 else {}
    pytest.importorskip("tifffile").imwrite(path, array.squeeze(), photometric="minisblack", **planar)


def save_png(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array.squeeze()).save(path)


@pytest.mark.parametrize(
    ("save", "suffix", "channels", "dtype", "no_data", "garbage"),
    [
        (np.save, ".npy", 4, "f4", "nan", np.nan),
        (np.save, ".npy", 4, "f4", "nan", np.inf),
        (np.save, ".npy", 1, "f4", -9999.0, -9999),
        (np.save, ".npy", 4, "f4", -9999.0, np.nan),
        (np.save, ".npy", 2, "f8", -3.4028234663852886e38, -3.4028234663852886e38),
        (np.save, ".npy", 4, "u2", 0.0, 0),
        (save_tiff, ".tif", 5, "f4", -9999.0, -9999),
        (save_tiff, ".tif", 5, "u2", 65535.0, 65535),
        (save_tiff, ".tif", 1, "f4", "nan", np.nan),
        (save_png, ".png", 1, "u2", 65535.0, 65535),
        (save_png, ".png", 3, "u1", 0.0, 0),
    ],
)
def test_values_that_are_there_are_what_they_are_without_gaps(
    tmp_path: Path,
    save: Callable[[Path, np.ndarray], None],
    suffix: str,
    channels: int,
    dtype: str,
    no_data: NoData,
    garbage: float,
) -> None:
    top = {"f4": 1, "f8": 1, "u1": 250, "u2": 60000}[dtype]
    whole = (values_of((H, W, channels), top) + (top > 1)).astype(dtype)
    torn = np.where(gaps_of(channels), np.array(garbage, dtype), whole)
    for name, array in (("whole", whole), ("torn", torn)):
        save(tmp_path / f"{name}{suffix}", array)
    expected = read_image(tmp_path / f"whole{suffix}", channels)
    values, there = split_validity(
        read_image(tmp_path / f"torn{suffix}", channels, no_data=no_data), channels
    )
    assert there is not None
    assert torch.equal(~there, torch.from_numpy(gaps_of(channels)).permute(2, 0, 1))
    assert torch.equal(values[there], expected[there])
    assert not values[~there].any()
    complete = read_image(tmp_path / f"whole{suffix}", channels, no_data=no_data)
    assert torch.equal(complete, torch.cat([expected, torch.full_like(expected, THERE)]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_a_mask(tmp_path: Path, mode: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (H, W, len(mode)), dtype=np.uint8)
    gap = gaps_of(1)[:, :, 0]
    array[:, :, -1] = np.where(gap, 0, 255)
    Image.fromarray(array).save(tmp_path / "a.png")
    array[gap, :-1] = 77
    Image.fromarray(array).save(tmp_path / "b.png")
    image, other = (read_image(tmp_path / name, channels, no_data="mask") for name in ("a.png", "b.png"))
    assert torch.equal(image, other)
    values, there = split_validity(image, channels)
    assert there is not None
    assert torch.equal(~there, torch.from_numpy(gap).expand(channels, -1, -1))
    expected = read_image(tmp_path / "a.png", channels).float()
    assert (values.float() - expected)[there].abs().max() <= 1  # Pillow's grey is cut, ours is rounded


def test_the_last_band_is_a_mask(tmp_path: Path) -> None:
    array = values_of((H, W, 6)).astype(np.float32)
    array[:, :, 5] = ~gaps_of(1)[:, :, 0]
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "values.npy", array[:, :, :5])
    values, there = split_validity(read_image(tmp_path / "a.npy", 5, no_data="mask"), 5)
    assert there is not None
    assert torch.equal(~there[4], torch.from_numpy(gaps_of(1)[:, :, 0]))
    assert torch.equal(values[there], read_image(tmp_path / "values.npy", 5)[there])
    with pytest.raises(BrokenImage):
        read_image(tmp_path / "values.npy", 5, no_data="mask")


def test_grey_is_there_where_all_colours_are(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    array = values_of((H, W, 3)).astype(np.float32)
    array[gaps_of(3)] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    _, there = split_validity(read_image(tmp_path / "a.tif", 1, no_data="nan"), 1)
    assert there is not None
    assert torch.equal(there[0], torch.from_numpy(~gaps_of(3).any(2)))


@pytest.mark.parametrize("no_data", ["nan", -9999.0])
def test_an_image_without_any_data_is_broken(tmp_path: Path, no_data: NoData) -> None:
    array = np.full((H, W), np.nan if no_data == "nan" else no_data, np.float32)
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(BrokenImage, match="no data"):
        read_image(tmp_path / "a.npy", 1, no_data=no_data)


def with_gaps(values: Tensor, gaps: Tensor) -> Tensor:
    return torch.cat([values, torch.where(gaps, 0, THERE).to(torch.uint8)])


TRANSFORMS: dict[str, Any] = {
    "training": lambda channels: RandomCropFlip((16, 16), (0.3, 1.0), turns=True, channels=channels),
    "evaluation": lambda channels: resize_center_crop((16, 16), channels=channels),
    "enlarged": lambda channels: resize_center_crop((48, 64), channels=channels),
    "straight": lambda channels: resize_center_crop((384, 384), channels=channels),
    "thin": lambda channels: resize_center_crop((2, 4), channels=channels),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", range(4))
def test_no_data_gets_into_no_value(name: str, seed: int) -> None:
    """Where all that was measured is 200, all that comes out is, whatever lies beside it."""
    shape = (2, 4, 300) if name == "thin" else (2, H, W)
    gaps = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    gaps[:, : shape[1] // 2, : shape[2] // 3] = True
    outcomes = []
    for garbage in (0, 255):
        values = torch.full(shape, 200, dtype=torch.uint8).masked_fill(gaps, garbage)
        with seeded(seed):
            outcomes.append(TRANSFORMS[name](2)(with_gaps(values, gaps)))
    assert torch.equal(*outcomes)
    values, there = split_validity(outcomes[0], 2)
    assert there is not None
    assert 0 < there.float().mean() < 1
    assert (values[there] == 200).all()
    assert not values[~there].any()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_whole_images_are_to_the_bit_what_they_are_without_a_no_data_value(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, H, W), generator=generator, dtype=torch.uint8)
    with seeded(5):
        expected = TRANSFORMS[name](None)(image)
    with seeded(5):
        values, there = split_validity(TRANSFORMS[name](2)(with_gaps(image, torch.zeros(2, H, W).bool())), 2)
    assert there is not None
    assert there.all()
    assert torch.equal(values, expected)


def test_normalised_it_is_0_and_filled_it_is_the_mean() -> None:
    gaps = torch.from_numpy(gaps_of(2)).permute(2, 0, 1)
    image = with_gaps(torch.full((2, H, W), 9, dtype=torch.uint8), gaps)
    normalised = to_float(image[None], (0.2, 0.4), (0.1, 0.3))[0]
    assert normalised.shape == (2, H, W)
    assert (normalised[gaps] == 0).all()
    plain = to_float(image[None, :2], (0.2, 0.4), (0.1, 0.3))[0]
    assert torch.equal(normalised[~gaps], plain[~gaps])
    filled = fill_gaps(image, (0.2, 0.4))
    assert [filled[i][gaps[i]].unique().tolist() for i in range(2)] == [[51], [102]]
    assert (filled[~gaps] == 9).all()
