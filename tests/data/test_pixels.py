"""Images that a run would read as nothing are refused with the option that reads them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex
from fcmae.data.pixels import check_pixels

Range = tuple[int, int]


def write(path: Path, low: int, high: int, dtype: str = "u2", channels: int = 1) -> None:
    """An image of all values from low to high; of several channels only as .npy."""
    values = np.linspace(low, high, 64).astype(dtype)
    pixels = np.stack([values.reshape(8, 8)] * channels, -1)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels[..., 0]).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize(
    ("values", "suggested"),
    [
        ((3, 200), "[0, 255]"),
        ((100, 1756), "[0, 4095]"),
        ((0, 4095), "[0, 4095]"),
        ((0, 9000), "[0, 16383]"),
        ((31000, 35000), "[31000, 35000]"),
    ],
)
def test_sixteen_bits_that_are_mostly_empty(folder: Path, suffix: str, values: Range, suggested: str) -> None:
    write(folder / f"dark{suffix}", values[0], values[0])
    write(folder / f"image{suffix}", *values)
    index = ImageIndex.scan(folder)
    with pytest.raises(UserError) as error:
        check_pixels(index, 1, None)
    assert f"from {values[0]} to {values[1]} of 65535" in str(error.value)
    assert f"give --images.value-range '{suggested}'" in str(error.value)
    check_pixels(index, 1, (0, 4095))


@pytest.mark.parametrize("values", [(0, 65535), (0, 16384)])
def test_sixteen_bits_that_are_used(folder: Path, values: Range) -> None:
    write(folder / "dark.png", 0, 100)
    write(folder / "image.png", *values)
    (folder / "damaged.tif").write_bytes(b"II*\0")
    check_pixels(ImageIndex.scan(folder), 1, None)


def test_eight_bits_are_read_whatever_their_values(folder: Path) -> None:
    write(folder / "image.npy", 0, 3, "u1")
    check_pixels(ImageIndex.scan(folder), 1, None)


@pytest.mark.parametrize(
    ("channels", "dtype", "wanted", "option"),
    [
        (12, "u1", 3, "has 12 channels, but 3 are wanted, as --network.in-chans"),
        (3, "u1", 12, "has 3 channels, but 12 are wanted, as --network.in-chans"),
        (1, "i4", 1, "--images.value-range '[LOW, HIGH]'"),
        (1, "f4", 1, "--images.value-range '[LOW, HIGH]'"),
    ],
)
def test_images_that_cannot_be_read_so(
    folder: Path, channels: int, dtype: str, wanted: int, option: str
) -> None:
    write(folder / "image.npy", 0, 7, dtype, channels)
    with pytest.raises(UserError, match=r"no readable image|has values") as error:
        check_pixels(ImageIndex.scan(folder), wanted, None)
    assert option in str(error.value)


def test_ordinary_pictures_do_not_need_torch(folder: Path) -> None:
    for name in ("a.png", "b.jpg"):
        write(folder / name, 0, 3, "u1")
    script = (
        "import sys\nfrom fcmae.data.index import ImageIndex\nfrom fcmae.data.pixels import check_pixels\n"
        "check_pixels(ImageIndex.scan(sys.argv[1]), 3, None)\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("no_data", [None, -9999.0])
def test_what_a_geotiff_says_of_no_data_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, no_data: float | None
) -> None:
    tifffile = pytest.importorskip("tifffile")
    scene = np.full((8, 8), 0.5, np.float32)
    scene[0] = -9999
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(folder / name, scene, extratags=[(42113, "s", 0, "-9999", True)])
    check_pixels(ImageIndex.scan(folder), 1, (0.0, 1.0), no_data)
    told = [record.getMessage() for record in caplog.records if "no-data" in record.getMessage()]
    assert len(told) == (no_data is None)
    assert all("--images.no-data -9999" in line and "a.tif" in line for line in told)


@pytest.mark.parametrize(
    ("value", "option"),
    [(np.nan, "--images.no-data nan"), (-9999, "--images.no-data"), (7, "--images.value-range")],
)
def test_values_that_need_a_setting_are_told_at_once(folder: Path, value: float, option: str) -> None:
    """Though the other half of the images can be read."""
    for number in range(4):
        tile = np.full((8, 8), 0.5, np.float32)
        if number % 2:
            tile[0] = value
        np.save(folder / f"{number}.npy", tile)
    with pytest.raises(UserError, match=option) as refusal:
        check_pixels(ImageIndex.scan(folder), 1, None)
    assert "1.npy" in str(refusal.value)
    if value != 7:
        check_pixels(ImageIndex.scan(folder), 1, None, "nan" if np.isnan(value) else value)
    check_pixels(ImageIndex.scan(folder), 1, (0, 7), "nan" if np.isnan(value) else None)
