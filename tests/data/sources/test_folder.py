"""Data in a folder: lists that a run keeps, values, and which other folder is the same data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.index import load_lists, save_lists
from fcmae.data.sources import SourceOptions, find_opener, open_source, open_splits

OPTIONS = SourceOptions(channels=1, size=8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of five images, each of a brightness of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, name in enumerate("ab"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (8, 8), 10 * number + i).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def test_lists_that_are_kept_are_read_again(folder: Path, tmp_path: Path) -> None:
    opener = find_opener(str(folder))
    files = [tmp_path / f"{name}.npz" for name in ("all", "train", "val")]
    save_lists(opener.list_images(), files[0])
    save_lists(opener.list_splits(0.2, seed=0), *files[1:])
    Image.new("L", (8, 8)).save(folder / "a" / "new.png")
    all_images = load_lists(files[0])
    assert opener.counts(all_images) == [10]
    assert len(opener.open_images(SourceOptions(1, 8, lists=all_images))) == 10
    assert len(opener.open_images(OPTIONS)) == 11
    splits = load_lists(*files[1:])
    assert opener.counts(splits) == [8, 2]
    train, val = opener.open_splits(SourceOptions(1, 8, val_fraction=0.9, lists=splits))
    assert (train.labels.bincount().tolist(), val.labels.bincount().tolist()) == ([4, 4], [1, 1])
    assert {int(val.source.read(i).max()) // 10 for i in range(2)} == {0, 1}


def test_a_run_without_lists_lists_anew(folder: Path, tmp_path: Path) -> None:
    assert load_lists(tmp_path / "images.npz") == []
    assert len(open_source(str(folder), OPTIONS)) == 10
    assert [len(part.labels) for part in open_splits(str(folder), OPTIONS)] == [8, 2]


def test_one_of_two_lists_is_a_damaged_run(folder: Path, tmp_path: Path) -> None:
    save_lists(find_opener(str(folder)).list_images(), tmp_path / "train.npz")
    with pytest.raises(UserError, match=r"val\.npz: No such file"):
        load_lists(tmp_path / "train.npz", tmp_path / "val.npz")


def test_measuring_takes_val_where_there_is_one_and_else_all(folder: Path, tmp_path: Path) -> None:
    opener = find_opener(str(folder))
    assert (len(opener.open_validation(OPTIONS).labels), opener.val_classes()) == (10, ["a", "b"])
    for half in ("train", "val"):
        shutil.copytree(folder, tmp_path / "halves" / half)
    shutil.rmtree(tmp_path / "halves" / "val" / "a")
    opener = find_opener(str(tmp_path / "halves"))
    assert (len(opener.open_validation(OPTIONS).labels), opener.val_classes()) == (5, ["b"])


def test_a_folder_is_known_by_where_its_lists_were_made(folder: Path, tmp_path: Path) -> None:
    for half in ("train", "val"):
        shutil.copytree(folder, tmp_path / "halves" / half)

    def same(trained_on: str) -> list[str]:
        opener = find_opener(str(tmp_path / trained_on))
        lists = opener.list_splits(0.2, seed=0)
        asked = ("images", "halves", "halves/val", "halves/train", ".")
        return [name for name in asked if opener.is_same(find_opener(str(tmp_path / name)), lists)]

    assert same("images") == ["images"]
    assert same("halves") == ["halves", "halves/val"]
    assert not find_opener(str(folder)).is_same(find_opener("digits"), [])
    assert find_opener(str(folder)).is_same(find_opener(f"{folder}/a/.."), [])


def test_the_value_range_is_that_of_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(2):
            np.save(tmp_path / "images" / name / f"{i}.npy", np.full((4, 4), 4095, np.uint16))
    data = str(tmp_path / "images")
    for value_range, white in (((0, 4095), 255), (None, 16)):
        options = SourceOptions(1, 4, value_range, val_fraction=0.5)
        for part in (*open_splits(data, options), find_opener(data).open_validation(options)):
            assert int(part.source.read(0).max()) == white
        assert int(open_source(data, options).read(0).max()) == white


def test_the_name_of_a_run_is_that_of_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [find_opener(spec).name for spec in (str(folder), ".", "a", "../images/")] == [
        "images", "images", "a", "images",
    ]  # fmt: skip
