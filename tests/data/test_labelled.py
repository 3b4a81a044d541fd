"""Labelled images from timm's factory and the digits: the right label beside each image."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from fcmae.core.errors import UserError
from fcmae.data.decode import BrokenImage
from fcmae.data.labelled import from_timm, open_splits, split_digits


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
    assert train.source.name(4) == str(root / "train" / "light" / "1.png")


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


@pytest.mark.parametrize("name", ["torch/image_folder", "folder"])
def test_a_broken_image_of_timm_s_costs_one_image(root: Path, name: str) -> None:
    (root / "train" / "dark" / "1.png").write_bytes(b"broken")
    train = from_timm(name, str(root), "train", 3)
    assert train.classes == ["dark", "light"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(BrokenImage, match=r"dark/1\.png"):
        train.source.read(1)
    assert train.source.read(2)[0, 0, 0] == 2


@pytest.mark.parametrize("name", ["torch/image_folder", "folder"])
def test_training_images_are_not_measured_on(root: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"6 of the 6 validation images in .*train are training images too"):
        open_splits(f"timm:{name}", 3, 8, data_root=str(root / "train"), val_fraction=0.2, seed=0)


class Table(Dataset[Any]):
    """What timm makes of a table of Hugging Face's: labels in a column, images that take time to decode."""

    def __init__(self, labels: Sequence[object]) -> None:
        names = {"cat": 0, "dog": 1}
        self.reader = SimpleNamespace(dataset={"label": labels}, label_key="label", class_to_idx=names)

    def __getitem__(self, i: int) -> Any:
        raise AssertionError("decoded for its label")


class Stream(IterableDataset[Any]):
    """A stream of a length, as timm's are."""

    def __iter__(self) -> Iterator[Any]:
        return iter(range(3))

    def __len__(self) -> int:
        return 3


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[dict[str, Any]]]:
    """Let timm's factory make a given data set, and list how it is called."""

    def install(dataset: Any) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def create(name: str, **options: Any) -> Any:
            calls.append(options)
            if options["split"] == "validation":
                raise ValueError("Unknown split \"validation\". Should be one of ['train', 'test'].")
            return dataset

        monkeypatch.setattr("timm.data.create_dataset", create)
        return calls

    return install


def test_labels_and_names_of_classes_are_taken_from_timm_s_reader(factory: Any) -> None:
    factory(Table([1, 0, 1]))
    data = from_timm("hfds/name", None, "train", 3)
    assert data.labels.tolist() == [1, 0, 1]
    assert data.classes == ["cat", "dog"]
    factory(Table(["dog", "cat"]))
    with pytest.raises(UserError, match="no labels that are numbers"):
        from_timm("hfds/name", None, "train", 3)


def test_test_stands_in_for_a_validation_split_that_is_not_there(factory: Any) -> None:
    calls = factory(Table([1, 0, 1]))
    from_timm("hfds/name", None, "validation", 3)
    assert [call["split"] for call in calls] == ["validation", "test"]


def test_streams_are_refused(factory: Any) -> None:
    factory(Stream())
    with pytest.raises(UserError, match="wds/name is a stream"):
        from_timm("wds/name", None, "train", 3)


def test_only_the_main_process_downloads_and_opens_it_once(
    factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = factory(Table([1, 0]))
    from_timm("torch/name", None, "train", 3)
    assert [call["download"] for call in calls] == [True]
    monkeypatch.setattr("fcmae.data.labelled.from_rank_zero", lambda make: None)  # as in the other processes
    from_timm("torch/name", None, "train", 3)
    assert [call["download"] for call in calls] == [True, False]


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
