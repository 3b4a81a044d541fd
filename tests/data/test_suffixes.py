"""The table of suffixes: a line more, and files of another suffix are listed, checked and read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.classes import find_classes
from fcmae.data.headers import check_headers
from fcmae.data.index import ImageIndex
from fcmae.data.pixels import check_pixels
from fcmae.data.sources import SourceOptions, open_source, open_splits
from fcmae.data.suffixes import SUFFIXES, ImageFormat, check_size, find_format, find_remedy


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def read_raw(path: Path, channels: int, max_pixels: int) -> np.ndarray:
    """A made-up camera's file: its name, its side, 12-bit values."""
    data = path.read_bytes()
    side = data[3]
    check_size((side, side), max_pixels)
    return np.frombuffer(data[4:], "<u2").reshape(side, side)


def write_raw(path: Path, value: int) -> None:
    path.write_bytes(b"RAW\4" + np.full(16, value, "<u2").tobytes())


def make_classes(root: Path, suffix: str) -> Path:
    for number, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(4):
            write_raw(root / name / f"{i}{suffix}", 4095 * number)
    return root


def test_a_reader_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_classes(tmp_path / "images", ".raw")
    with pytest.raises(UserError, match=r"found 8 \.raw; convert them to"):
        ImageIndex.scan(root)
    monkeypatch.setitem(SUFFIXES, ".raw", ImageFormat(read=read_raw, magic=b"RAW"))
    index = ImageIndex.scan(root)
    assert len(index) == 8
    check_headers(index)
    (root / "light" / "0.raw").write_bytes(b"")
    find_classes(root, 0.25, seed=0)
    with pytest.raises(UserError, match=r"--images\.value-range '\[0, 4095\]'"):
        check_pixels(index, 1, None)
    options = SourceOptions(channels=1, size=4, value_range=(0, 4095), val_fraction=0.25)
    source = open_source(str(root), options)
    assert [int(source.read(i).max()) for i in (0, 7)] == [0, 255]
    train, val = open_splits(str(root), options)
    assert train.labels.bincount().tolist() == [3, 3]
    for part in (train, val):
        for i, label in enumerate(part.labels.tolist()):
            if part.source.name(i) != "light/0.raw":
                assert int(part.source.read(i).max()) == 255 * label
    for path in root.glob("*/*"):
        path.write_bytes(b"something else")
    with pytest.raises(UserError, match="no readable image among the 8 tried"):
        check_headers(index)


def test_a_picture_that_pillow_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4), (7, 8, 9)).save(tmp_path / "images" / "a.PPM")
    monkeypatch.setitem(SUFFIXES, ".ppm", ImageFormat("PPM"))
    index = ImageIndex.scan(tmp_path / "images")
    check_headers(index)
    check_pixels(index, 3, None)
    source = open_source(str(tmp_path / "images"), SourceOptions(channels=3, size=4))
    assert source.read(0)[:, 0, 0].tolist() == [7, 8, 9]


def test_a_cached_list_is_of_the_suffixes_that_were_read_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_classes(tmp_path / "images", ".raw")
    Image.new("L", (4, 4)).save(root / "one.png")
    monkeypatch.setattr("fcmae.data.index.CLOCK_STEP_NS", -(10**12))  # the folder may change no more
    assert len(ImageIndex.scan(root)) == 1
    monkeypatch.setitem(SUFFIXES, ".raw", ImageFormat(read=read_raw))
    assert len(ImageIndex.scan(root)) == 9


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.b/c.JPEG", ".jpeg"), ("x.ome.tif", ".ome.tif"), ("x.tif", ".tif"), ("tif", ".jpg")],
)
def test_the_longest_suffix_counts(name: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUFFIXES, ".ome.tif", ImageFormat(read=read_raw))
    assert find_format(Path(name)) is SUFFIXES[suffix]


def test_phones_photographs_say_what_reads_them() -> None:
    assert find_remedy({".txt": 3}) == ""
    assert "pillow-heif" not in find_remedy({".jxl": 1})
    assert find_remedy([".heic"]).endswith("pip install pillow-heif")
