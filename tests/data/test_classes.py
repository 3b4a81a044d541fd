"""Labels from folders: every image gets its class, and folders that cannot work are refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.classes import LabelledFiles, find_classes, find_val_classes, split_by_class
from fcmae.data.index import ImageIndex


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(root: Path, counts: dict[str, int], broken: tuple[str, ...] = ()) -> Path:
    for name, count in counts.items():
        (root / name / "deep").mkdir(parents=True)
        for i in range(count):
            path = root / name / ("deep" if i % 2 else "") / f"{i}.png"
            if name in broken:
                path.write_bytes(b"no image at all")
            else:
                Image.new("L", (4, 4)).save(path)
    return root


def test_each_image_gets_the_class_of_its_first_folder(tmp_path: Path) -> None:
    # names whose order changes where "/" is compared with other characters
    data = LabelledFiles.read(
        ImageIndex.scan(make(tmp_path / "d", {"cat": 3, "cat-big": 2, "cat.x": 1, "dog": 4}))
    )
    assert data.classes == sorted(data.classes)
    assert len(data.labels) == len(data.index) == 10
    for i, label in enumerate(data.labels.tolist()):
        assert data.index[i].split("/")[0] == data.classes[label]


def test_selection_keeps_files_and_labels_together(tmp_path: Path) -> None:
    data = LabelledFiles.read(ImageIndex.scan(make(tmp_path / "d", {"a": 3, "b": 5, "long name": 2})))
    part = data.select(np.array([9, 0, 4, 7]))
    assert [part.index[i] for i in range(4)] == [data.index[i] for i in (0, 4, 7, 9)]
    assert part.labels.tolist() == data.labels[[0, 4, 7, 9]].tolist()


def test_train_and_val_folders(tmp_path: Path) -> None:
    make(tmp_path / "d" / "train", {"a": 2, "b": 2})
    make(tmp_path / "d" / "test", {"a": 1, "b": 1})
    train, val = find_classes(tmp_path / "d", 0.5, 0)
    assert (len(train.index), len(val.index)) == (4, 2)
    assert find_val_classes(tmp_path / "d").index.root.name == "test"


@pytest.mark.parametrize(
    ("train_name", "val_name"),
    [
        ("Training", "Testing"),
        ("TRAIN", "VAL"),
        ("Train", "Test"),
        ("seg_train", "seg_test"),
        ("train", "dev"),
        ("train", "eval"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_split_folders_are_not_taken_for_classes(tmp_path: Path, train_name: str, val_name: str) -> None:
    make(tmp_path / "d" / train_name, {"a": 2, "b": 2})
    make(tmp_path / "d" / val_name, {"a": 1, "b": 1})
    train, val = find_classes(tmp_path / "d", 0.5, 0)
    assert train.classes == val.classes == ["a", "b"]
    assert (len(train.index), len(val.index)) == (4, 2)
    assert find_val_classes(tmp_path / "d").index.root == tmp_path / "d" / val_name


def test_classes_may_be_called_as_rare_splits_are(tmp_path: Path) -> None:
    train, _ = find_classes(make(tmp_path / "d", {"dev": 2, "ops": 2}), 0.5, 0)
    assert train.classes == ["dev", "ops"]


def test_a_class_without_validation_images_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "d" / "train", {"a": 2, "b": 2, "c": 2})
    make(tmp_path / "d" / "val", {"a": 1, "c": 1})
    train, val = find_classes(tmp_path / "d", 0.2, 0)
    assert (train.classes, val.classes) == (["a", "b", "c"], ["a", "b", "c"])
    assert val.labels.tolist() == [0, 2]
    assert "has no image of 1 of the 3 classes" in caplog.text
    assert "(b)" in caplog.text


def test_a_single_tree_is_split_by_class(tmp_path: Path) -> None:
    train, val = find_classes(make(tmp_path / "d", {"a": 10, "b": 20, "c": 2}), 0.2, 3)
    assert np.bincount(train.labels).tolist() == [8, 16, 1]
    assert np.bincount(val.labels).tolist() == [2, 4, 1]
    files = [data.index[i] for data in (train, val) for i in range(len(data.index))]
    assert len(set(files)) == 32


def test_the_split_depends_on_the_seed_alone() -> None:
    labels = np.repeat(np.arange(4), 25)
    first, again, other = (split_by_class(labels, 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_fraction_of_a_class_is_at_least_one_image_and_never_all() -> None:
    labels = np.array([2, 0, 1, 1, 0, 0, 0])  # four of class 0, two of class 1, one of class 2
    for fraction in (0.01, 0.99):
        stay, taken = split_by_class(labels, fraction, 0)
        assert sorted(np.concatenate([stay, taken]).tolist()) == list(range(7))
        assert set(labels[stay].tolist()) == {0, 1, 2}
        assert set(labels[taken].tolist()) == {0, 1}
    assert set(labels[split_by_class(labels, 0.01, 0, take_singles=True)[1]].tolist()) == {0, 1, 2}


def test_classes_of_one_image_are_trained_on_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, val = find_classes(make(tmp_path / "d", {"a": 1, "b": 5, "c": 1, "d": 4}), 0.2, 0)
    assert train.classes == val.classes == ["a", "b", "c", "d"]
    assert np.bincount(train.labels).tolist() == [1, 4, 1, 3]
    assert val.labels.tolist() == [1, 3]
    assert "2 of the 4 classes have one image only (a, c)" in caplog.text
    assert len(caplog.records) == 1
    assert LabelledFiles.read(val.index).renumber(train.classes).labels.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ({"a": 2}, {"a": 1}, "one class only"),
        ({"a": 2, "b": 2}, {"a": 1, "b": 1, "c": 1}, "no image of 1 of the 3 classes.*c"),
    ],
)
def test_classes_that_do_not_match_are_refused(
    tmp_path: Path, train: dict[str, int], val: dict[str, int], message: str
) -> None:
    make(tmp_path / "d" / "train", train)
    make(tmp_path / "d" / "val", val)
    with pytest.raises(UserError, match=message):
        find_classes(tmp_path / "d", 0.2, 0)


def test_a_tree_that_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one image of each class"):
        find_classes(make(tmp_path / "single images", {"a": 1, "b": 1}), 0.2, 0)
    with pytest.raises(UserError, match="none of the 4 images of class b"):
        find_classes(make(tmp_path / "broken", {"a": 5, "b": 4}, broken=("b",)), 0.2, 0)
    with pytest.raises(UserError, match="one class only"):
        find_classes(make(tmp_path / "one", {"a": 5}), 0.2, 0)
    make(tmp_path / "half" / "train", {"a": 5, "b": 4})
    with pytest.raises(UserError, match="add val/"):
        find_classes(tmp_path / "half", 0.2, 0)
    Image.new("L", (4, 4)).save(tmp_path / "one" / "loose.png")
    with pytest.raises(UserError, match=r"loose\.png lies in no class's folder"):
        find_classes(tmp_path / "one", 0.2, 0)
