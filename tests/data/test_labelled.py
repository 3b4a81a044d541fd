"""Labelled images from timm's factory and the digits: the right label beside each image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.data.decode import BrokenImage
from fcmae.data.labelled import from_timm, open_splits, split_digits
from fcmae.engine.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train/ and validation/ of two classes, each image of a brightness that tells its class and number."""
    for split in ("train", "validation"):
        for label, name in enumerate(("dark", "light")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (8, 8), (100 * label + i,) * 3).save(folder / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_s_factory_by_name(root: Path, channels: int) -> None:
    train, val = open_splits(
        "timm:torch/image_folder", channels, 8, data_root=str(root), val_fraction=0.2, seed=0
    )
    assert train.classes == val.classes == ["dark", "light"]
    for i, label in enumerate(train.labels.tolist()):
        image = train.source.read(i)
        assert image.shape == (channels, 8, 8)
        assert int(image.max()) // 100 == label
    assert train.source.name(4) == "torch/image_folder 4"


def test_a_folder_s_value_range_is_that_of_the_settings(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            np.save(tmp_path / name / f"{i}.npy", np.full((4, 4), 4095, np.uint16))
    options: dict[str, Any] = {"data_root": "", "val_fraction": 0.5, "seed": 0}
    for data in open_splits(str(tmp_path), 1, 4, value_range=(0, 4095), **options):
        assert int(data.source.read(0).min()) == 255
    for data in open_splits(str(tmp_path), 1, 4, **options):
        assert int(data.source.read(0).max()) == 16


def test_a_broken_image_of_timm_s_costs_one_image(root: Path) -> None:
    (root / "train" / "dark" / "1.png").write_bytes(b"broken")
    train = from_timm("torch/image_folder", str(root), "train", 3)
    with pytest.raises(BrokenImage, match="torch/image_folder 1"):
        train.source.read(1)
    assert train.source.read(2).shape == (3, 8, 8)


def test_names_that_timm_cannot_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torch/nothing .* cannot be read"):
        from_timm("torch/nothing", str(tmp_path), "train", 3)
    with pytest.raises(UserError, match="1, 3 or 4 channels, not 2"):
        from_timm("torch/cifar10", str(tmp_path), "train", 2)


def test_the_digits_are_split_without_overlap() -> None:
    train, val = split_digits(8, 1, 0.2, seed=0)
    assert len(train.labels) + len(val.labels) == 1797
    names = [data.source.name(i) for data in (train, val) for i in range(len(data.labels))]
    assert len(set(names)) == 1797
    shares = np.bincount(val.labels) / (np.bincount(train.labels) + np.bincount(val.labels))
    assert shares == pytest.approx(0.2, abs=0.01)
    assert torch.equal(val.source.read(0), val.select(np.array([0])).source.read(0))
