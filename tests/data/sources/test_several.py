"""Several folders, lists and tables as one data set, whose classes are united by their names."""

import logging
from pathlib import Path

import pytest
import yaml
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.index import load_lists, save_lists
from fcmae.data.sources import SourceOptions, find_opener, open_source, open_splits
from fcmae.pretraining.settings import read

OPTIONS = SourceOptions(channels=1, size=8)


def make(root: Path, first: int, *classes: str) -> Path:
    """Folders of classes, two images each, all of a brightness of their own."""
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (8, 8), first + 10 * number + i).save(root / name / f"{i}.png")
    return root


def shades(data: object) -> list[int]:
    return [int(data.read(i).max()) for i in range(len(data))]  # type: ignore[attr-defined,arg-type]


def test_several_folders_are_one_source_in_their_order(tmp_path: Path) -> None:
    specs = [str(make(tmp_path / "b", 0, "x", "y")), str(make(tmp_path / "deep/a", 100, "y", "z"))]
    source = open_source(specs, OPTIONS)
    assert shades(source) == [0, 1, 10, 11, 100, 101, 110, 111]
    assert [source.name(i) for i in (0, 7)] == ["b/x/0.png", "deep/a/z/1.png"]
    opener = find_opener(specs)
    assert (opener.name, opener.setting) == ("b+a", specs)


def test_classes_of_several_folders_are_united_by_name(tmp_path: Path) -> None:
    specs = [str(make(tmp_path / "b", 0, "x", "y")), str(make(tmp_path / "a", 100, "a", "y"))]
    lists = find_opener(specs).list_splits(0.5, seed=0)
    files = [tmp_path / "train.npz", tmp_path / "val.npz"]
    save_lists(lists, *files)
    expected = {0: "x", 1: "x", 10: "y", 11: "y", 100: "a", 101: "a", 110: "y", 111: "y"}
    for kept in (lists, load_lists(*files)):
        parts = open_splits(specs, SourceOptions(1, 8, lists=kept))
        found = {
            shade: part.classes[label]
            for part in parts
            for shade, label in zip(shades(part.source), part.labels.tolist(), strict=True)
        }
        assert (found, [len(part.labels) for part in parts]) == (expected, [4, 4])


def test_a_folder_without_validation_is_trained_on_beside_one_that_has(tmp_path: Path) -> None:
    make(tmp_path / "a" / "train", 0, "x", "y")
    make(tmp_path / "a" / "val", 50, "x", "y")
    train, val = open_splits([str(tmp_path / "a"), str(make(tmp_path / "b", 100, "x"))], OPTIONS)
    assert (len(train.labels), len(val.labels)) == (6, 4)
    assert shades(val.source) == [50, 51, 60, 61]


def test_the_same_images_twice_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", 0, "x", "y")
    for other in ("a", "a/x", "a/../a"):
        with pytest.raises(UserError, match="twice"):
            find_opener([str(tmp_path / "a"), str(tmp_path / other)])
    with pytest.raises(UserError, match="digits"):
        find_opener([str(tmp_path / "a"), "digits"])


def test_parts_of_a_runs_data_are_its_own(tmp_path: Path) -> None:
    specs = [str(make(tmp_path / name, 0, "x", "y")) for name in "ab"]
    for asked, same in ((specs, True), (specs[::-1], True), (specs[1], True), (str(tmp_path / "c"), False)):
        assert find_opener(specs).is_same(find_opener(asked), []) == same


def test_data_may_be_given_again_and_again_and_in_a_file(tmp_path: Path) -> None:
    assert read(["--data", "one"]).data == "one"
    assert read(["--data", "one", "--epochs=3", "--data=two: 2"]).data == ["one", "two: 2"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": ["one", "two"]}))
    assert read(["--config", str(recipe)]).data == ["one", "two"]
    assert read(["--config", str(recipe), "--data=three"]).data == "three"
    with pytest.raises(UserError, match="data"):
        read(["--data"])


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing"), ("seg_train", "seg_test")])
def test_what_is_kept_for_measuring_is_not_pretrained_on(
    tmp_path: Path, names: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number, name in enumerate((*names, "unlabeled")):
        make(tmp_path / "d" / name, 100 * number, "x")
    opener = find_opener(str(tmp_path / "d"))
    assert sorted(shades(opener.open_images(OPTIONS))) == [0, 1, 200, 201]
    assert f"2 images of {names[1]}/ are kept" in caplog.text
    assert sorted(shades(opener.open_everything(OPTIONS))) == [0, 1, 100, 101, 200, 201]


def test_classes_that_are_called_as_splits_are_all_pretrained_on(tmp_path: Path) -> None:
    assert len(open_source(str(make(tmp_path / "d", 0, "test", "dev", "ops")), OPTIONS)) == 6
