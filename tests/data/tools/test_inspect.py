"""What is found of a source: kinds, sizes, classes, faults, copies; and the contact sheet."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.data.sources import SourceOptions
from fcmae.data.tools.contact_sheet import choose, draw_contact_sheet
from fcmae.data.tools.inspect import inspect
from fcmae.data.tools.pieces import Pieces, open_pieces
from tests.data.archives_helper import picture

OPTIONS = SourceOptions(channels=3, size=16)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def pieces(tmp_path: Path) -> Pieces:
    """Six images of cats and three of dogs to train on, three to measure on, with faults of each kind."""
    files = {
        "train/cat/0.jpg": picture(0, 20),
        "train/cat/1.jpg": picture(1, 40),
        "train/cat/2.png": picture(2, 30, "PNG"),
        "train/cat/3.jpg": picture(1, 40),
        "train/cat/4.jpg": b"no image",
        "train/cat/5.jpg": picture(5)[:400],
        "train/dog/0.jpg": picture(10),
        "train/dog/1.jpg": picture(11),
        "train/dog/2.jpg": picture(1, 40),
        "val/cat/0.jpg": picture(20),
        "val/cat/1.jpg": picture(0, 20),
        "val/cat/2.jpg": picture(22),
        "train/dog/notes.txt": b"x",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    Image.fromarray(np.full((20, 24), 7000, np.uint16)).save(tmp_path / "train/dog/3.png")
    Image.fromarray(np.full((20, 24), 70, np.uint8)).save(tmp_path / "train/dog/4.png")
    return open_pieces(str(tmp_path), OPTIONS)


def test_everything_is_found(pieces: Pieces) -> None:
    found = inspect(pieces, 3, None, 0, "Inspecting").summary()
    assert found["images"] == {"train": 11, "val": 3}
    assert found["formats"] == {"JPEG": 9, "PNG": 3}
    assert found["modes"] == {"RGB": 10, "I;16": 1, "L": 1}
    assert found["channels"] == {"3": 10, "1": 2}
    assert found["width"] == {"least": 24, "median": 24, "greatest": 44}
    assert found["short_side"] == {"least": 20, "median": 20, "greatest": 40}
    assert found["classes"] == {
        "count": 2,
        "train": {"largest": ["cat", 6], "median": 5, "smallest": ["dog", 5], "without_images": 0},
        "val": {"largest": ["cat", 3], "median": 1, "smallest": ["dog", 0], "without_images": 1},
    }
    assert found["broken"]["count"] == 2
    assert {name for name, _ in found["broken"]["examples"]} == {"cat/4.jpg", "cat/5.jpg"}
    assert found["duplicates"]["groups"] == 2
    assert found["duplicates"]["needless"] == 3
    assert found["duplicates"]["in_train_and_val"] == 1
    assert ["cat/1.jpg", "cat/3.jpg", "dog/2.jpg"] in found["duplicates"]["examples"]
    assert len(found["mean"]) == len(found["std"]) == 3
    assert found["passed_over"] == {".txt": 1}
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found))


def test_a_sample_is_evenly_spread(pieces: Pieces) -> None:
    findings = inspect(pieces, 3, 3, 0, "Inspecting")
    assert [numbers.tolist() for numbers in findings.numbers] == [[0, 5, 10], [0, 1, 2]]
    assert findings.summary()["looked_at"] == 6


def test_workers_find_the_same(pieces: Pieces) -> None:
    assert inspect(pieces, 3, None, 2, "x").summary() == inspect(pieces, 3, None, 0, "x").summary()


def test_images_of_no_file_are_compared_by_their_pixels() -> None:
    found = inspect(open_pieces("digits", OPTIONS), 3, 50, 0, "Inspecting").summary()
    assert found["formats"] == {"array": 100}
    assert found["classes"]["count"] == 10
    assert found["duplicates"]["needless"] == 0
    assert found["bytes"] == 100 * 3 * 16 * 16


def test_the_sheet_shows_each_image_with_its_class_and_size(pieces: Pieces) -> None:
    figure = draw_contact_sheet(pieces, 3)
    drawn = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in drawn]
    assert titles[:4] == ["cat\n24 x 20", "cat\n44 x 40", "cat\n34 x 30", "cat\n44 x 40"]
    assert len(drawn) == 9
    broken = [axes for axes in figure.axes if axes.texts]
    assert [axes.get_title() for axes in broken] == ["cat", "cat"]
    source = pieces.pieces[0].source
    shown = drawn[0].images[0].get_array()
    assert shown is not None
    assert abs(np.asarray(shown).mean((0, 1)) - source.read(0).numpy().mean((1, 2))).max() < 3


def test_a_sheet_of_many_shows_many_classes(tmp_path: Path) -> None:
    for i in range(60):
        folder = tmp_path / f"class $_{i}"
        folder.mkdir()
        for j in range(3 if i else 50):
            (folder / f"{j}.jpg").write_bytes(picture(1))
    pieces = open_pieces(str(tmp_path), OPTIONS)
    labels = pieces.pieces[0].labels
    assert labels is not None
    assert len(set(labels[choose(pieces.pieces[0], 40)])) > 25
    assert draw_contact_sheet(pieces, 3).axes[0].get_title().startswith("class $_0")


def test_no_data_is_white_and_not_counted(tmp_path: Path) -> None:
    for number in range(4):
        scene = np.full((20, 24, 2), 0.25, np.float32)
        scene[: 4 * number] = np.nan
        np.save(tmp_path / f"{number}.npy", scene)
    pieces = open_pieces(str(tmp_path), SourceOptions(channels=2, size=16, no_data="nan"))
    found = inspect(pieces, 2, None, 0, "Inspecting").summary()
    assert (found["channels"], found["broken"]["count"]) == ({"2": 4}, 0)
    assert found["mean"] == pytest.approx([0.25] * 2, abs=0.01)
    assert found["std"] == pytest.approx([0] * 2, abs=0.01)
    drawn = [axes.images[0].get_array() for axes in draw_contact_sheet(pieces, 2).axes if axes.images]
    assert [float(image.max()) for image in drawn if image is not None] == [64, 255, 255, 255]
