"""Labelled images from timm's factory: the right label beside each image."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from fcmae.core.errors import UserError
from fcmae.data.decode import BrokenImage
from fcmae.data.images import Labelled
from fcmae.data.sources import SourceOptions, open_source, open_splits
from fcmae.data.sources.timm import TimmOpener


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def open_labelled(name: str, split: str, root: str = "", channels: int = 3) -> Labelled:
    return TimmOpener(f"timm:{name}").open_labelled(split, SourceOptions(channels, size=8, root=root))


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
    train, val = open_splits("timm:torch/image_folder", SourceOptions(channels, 8, root=str(root)))
    assert train.classes == val.classes == ["dark", "light"]
    for i, label in enumerate(train.labels.tolist()):
        image = train.source.read(i)
        assert image.shape == (channels, 8, 8)
        assert int(image.max()) // 100 == label
    assert train.source.name(4) == str(root / "train" / "light" / "1.png")


@pytest.mark.parametrize("name", ["torch/image_folder", "folder"])
def test_a_broken_image_of_timm_s_costs_one_image(root: Path, name: str) -> None:
    (root / "train" / "dark" / "1.png").write_bytes(b"broken")
    train = open_labelled(name, "train", root=str(root))
    assert train.classes == ["dark", "light"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(BrokenImage, match=r"dark/1\.png"):
        train.source.read(1)
    assert train.source.read(2)[0, 0, 0] == 2


@pytest.mark.parametrize("name", ["torch/image_folder", "folder"])
def test_training_images_are_not_measured_on(root: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"6 of the 6 validation images in .*train are training images too"):
        open_splits(f"timm:{name}", SourceOptions(3, 8, root=str(root / "train")))


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
    data = open_labelled("hfds/name", "train")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.classes == ["cat", "dog"]
    factory(Table(["dog", "cat"]))
    with pytest.raises(UserError, match="no labels that are numbers"):
        open_labelled("hfds/name", "train")
    open_source("timm:hfds/name", SourceOptions(channels=3, size=8))  # which pre-training does without


def test_test_stands_in_for_a_validation_split_that_is_not_there(factory: Any) -> None:
    calls = factory(Table([1, 0, 1]))
    open_labelled("hfds/name", "validation")
    assert [call["split"] for call in calls] == ["validation", "test"]


def test_streams_are_refused(factory: Any) -> None:
    factory(Stream())
    with pytest.raises(UserError, match="wds/name is a stream"):
        open_labelled("wds/name", "train")


def test_only_rank_zero_downloads_and_opens_it_once(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = factory(Table([1, 0]))
    open_labelled("torch/name", "train")
    assert [call["download"] for call in calls] == [True]
    monkeypatch.setattr(
        "fcmae.data.sources.timm.from_rank_zero", lambda make: None
    )  # as in the other processes
    open_labelled("torch/name", "train")
    assert [call["download"] for call in calls] == [True, False]


def test_names_that_timm_cannot_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torch/nothing .* cannot be read"):
        open_labelled("torch/nothing", "train", root=str(tmp_path))
    with pytest.raises(UserError, match="1, 3 or 4 channels, not 2"):
        open_labelled("torch/cifar10", "train", root=str(tmp_path), channels=2)
