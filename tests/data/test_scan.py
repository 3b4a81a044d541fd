"""Trees that people have: deep, linked in circles, with odd names, and with files of every kind."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.data.classes import find_classes
from fcmae.data.decode import BrokenImage, read_image
from fcmae.data.index import ImageIndex
from fcmae.data.sources import SourceOptions, find_opener, open_source


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    yield tmp_path / "images"
    subprocess.run(["rm", "-rf", tmp_path / "images"], check=True)  # Python removes no tree so deep


def names(root: Path) -> list[str]:
    index = ImageIndex.scan(root)
    return [index[i] for i in range(len(index))]


def test_folders_a_thousand_deep(root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(1200):  # step by step: the path may be longer than one call takes
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("a.png", os.O_CREAT, dir_fd=here))
    os.close(here)
    (root / "z.png").touch()
    assert names(root) == ["d/" * 1200 + "a.png", "z.png"]


def test_folders_deeper_than_a_path_may_be_long(root: Path) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    (root / "z.png").touch()
    assert names(root) == ["z.png"]
    assert ImageIndex.scan(root).passed_over == {"unreachable folders": 1}


def test_links_that_lead_nowhere_are_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (root / "a.png").touch()
    (root / "b.png").symlink_to("b.png")
    (root / "c.png").symlink_to(root / "a.png" / "inside.png")
    (root / "d.png").symlink_to("n" * 300)
    (root / "e").symlink_to("f")
    (root / "f").symlink_to("e")
    os.mkfifo(root / "pipe.png")
    assert names(root) == ["a.png"]
    assert "passed over 5 links that lead nowhere, 1 special files" in caplog.text


def test_a_target_that_vanishes_after_listing_is_a_broken_image(root: Path, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (root / "a.png").symlink_to(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(root / "b.png")
    source = open_source(str(root), SourceOptions(channels=1, size=4))
    (tmp_path / "a.png").unlink()
    with pytest.raises(BrokenImage, match="no such file"):
        source.read(0)


@pytest.mark.parametrize("name", ["[/]", "[red]", "a[/b]", "[link=x]", "{0}", "%s %d", "new\nline", "\u2028"])
def test_names_that_mean_something_elsewhere(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal
    folder = root / name
    folder.mkdir(parents=True)
    Image.new("L", (4, 4)).save(folder / f"{name.replace('/', '')}.png")
    assert len(names(folder)) == 1


def test_a_loop_of_links_has_a_name(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    assert find_opener(str(root / "loop")).name == "loop"


@pytest.mark.parametrize("suffix", ["", ".jpe", ".jfif", ".pjpeg", ".JFIF"])
def test_jpegs_of_all_names_are_read(root: Path, suffix: str) -> None:
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), (90, 90, 90)).save(root / name / f"{i}{suffix}", "JPEG")
    train, val = find_classes(root, 0.5, seed=0)
    assert train.classes == val.classes == ["cat", "dog"]
    assert int(read_image(train.index.path(0), 3).max()) in range(88, 93)


def test_files_without_a_suffix_are_what_their_bytes_say(root: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        Image.new("RGB", (8, 8)).save(root / kind.lower(), kind)
    (root / "README").write_text("BM is the first word")
    (root / "empty").touch()
    np.save(root / "array.npy", np.zeros((4, 4), np.uint8))
    (root / "array.npy").rename(root / "array")
    assert names(root) == ["bmp", "jpeg", "png", "tiff", "webp"]
    assert ImageIndex.scan(root).passed_over == {"files without a suffix": 3}


def test_many_kinds_are_told_in_few_words(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (root / "a.png").touch()
    for i in range(30):
        (root / f"b.{i}").touch()
    (root / "second.7").touch()
    assert names(root) == ["a.png"]
    assert "passed over 2 .7, 1 .0" in caplog.text
    assert "23 of other kinds" not in caplog.text
    assert "22 of other kinds" in caplog.text
