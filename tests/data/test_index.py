"""The list of image files: order, what is left out, cache, errors."""

import errno
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.headers import check_headers
from fcmae.data.index import ImageIndex
from fcmae.data.suffixes import SUFFIXES


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fcmae"


def paths(index: ImageIndex) -> list[str]:
    return [index[i] for i in range(len(index))]


def make_tree(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def age(root: Path) -> None:
    """Let every folder look as if it had last been changed a minute ago."""
    for folder, _, _ in os.walk(root):
        stamp = os.stat(folder).st_mtime_ns - 60 * 10**9
        os.utime(folder, ns=(stamp, stamp))


def test_order_is_that_of_sorted_paths_and_others_are_left_out(tmp_path: Path) -> None:
    wanted = [
        "b.jpg",
        "a/z.PNG",
        "a/b/c.tiff",
        "a.b/x.npy",
        "a b/ü.webp",
        "train/n01/1.JPEG",
        "train/n01.bmp",
    ]
    root = make_tree(
        tmp_path / "images", *wanted, "notes.txt", ".hidden.jpg", ".git/x.jpg", "a/b/.x/y.png", "jpg"
    )
    index = ImageIndex.scan(root)
    expected = sorted(root / name for name in wanted)
    assert [index.path(i) for i in range(len(index))] == expected
    assert paths(index) == [path.relative_to(root).as_posix() for path in expected]


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    elsewhere = make_tree(tmp_path / "elsewhere", "1.jpg")
    root = make_tree(tmp_path / "images", "a/2.jpg")
    (root / "link").symlink_to(elsewhere)
    (root / "second").symlink_to(elsewhere)
    (root / "a" / "loop").symlink_to(root)
    (root / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    assert paths(ImageIndex.scan(root)) == ["a/2.jpg", "link/1.jpg"]


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "images", "a.jpg")
    with open(os.fsencode(root) + b"/\xff.jpg", "wb"):
        pass
    index = ImageIndex.scan(root)
    assert len(index) == 2
    assert all(index.path(i).exists() for i in range(2))


def test_a_saved_list_is_the_same_list(tmp_path: Path) -> None:
    index = ImageIndex.scan(make_tree(tmp_path / "images", "a.jpg", "b/ü.png"))
    index.save(tmp_path / "list.npz")
    loaded = ImageIndex.load(tmp_path / "list.npz")
    assert paths(loaded) == paths(index)
    assert loaded.root == index.root
    assert loaded.digest() == index.digest()


def test_a_loaded_list_lies_in_its_file_also_in_a_process_that_is_spawned(tmp_path: Path) -> None:
    index = ImageIndex.scan(make_tree(tmp_path / "images", *(f"{i}.jpg" for i in range(2000))))
    index.save(tmp_path / "list.npz")
    pickled = pickle.dumps(ImageIndex.load(tmp_path / "list.npz"))
    assert len(pickled) < 500
    there = pickle.loads(pickled)
    assert isinstance(there.names.base, np.memmap)
    assert paths(there) == paths(pickle.loads(pickle.dumps(index))) == paths(index)


def test_digest_depends_on_the_list_and_not_on_the_place(tmp_path: Path) -> None:
    files = {"one": ["ab.jpg", "c.jpg"], "two": ["ab.jpg", "c.jpg"], "three": ["a.jpg", "bc.jpg"]}
    one, two, three = (ImageIndex.scan(make_tree(tmp_path / key, *files[key])).digest() for key in files)
    assert one == two
    assert one != three


def test_cache_is_used_until_a_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_tree(tmp_path / "images", "a/1.jpg", "b/2.jpg")
    age(root)
    before = paths(ImageIndex.scan(root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", None)  # nothing is listed any more
        assert paths(ImageIndex.scan(root)) == before
    (root / "b" / "3.jpg").touch()
    assert paths(ImageIndex.scan(root)) == [*before, "b/3.jpg"]


def test_images_that_are_not_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(tmp_path / "images", "1.jpg", "a/2.JXL", "3.jxl", "a/4.gif", "notes.txt", ".5.jxl")
    age(root)
    assert paths(ImageIndex.scan(root)) == ["1.jpg"]
    (warning,) = caplog.messages
    assert warning.startswith(f"{root}: passed over 2 .jxl, 1 .gif, 1 .txt; convert them to JPEG, PNG")
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", None)  # nothing is listed any more
        assert ImageIndex.scan(root).passed_over == {".jxl": 2, ".gif": 1, ".txt": 1}
    (root / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"no image: .* found 2 .jxl, 1 .gif, 1 .txt; convert them to"):
        ImageIndex.scan(root)


def test_a_folder_changed_this_moment_is_not_cached(tmp_path: Path, cache: Path) -> None:
    ImageIndex.scan(make_tree(tmp_path / "images", "1.jpg"))
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "other arrays", "folder"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, cache: Path, damage: str) -> None:
    root = make_tree(tmp_path / "images", "1.jpg")
    age(root)
    ImageIndex.scan(root)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "other arrays":
        changed = [root.stat().st_mtime_ns]
        np.savez(
            file,
            names=np.zeros(3),
            offsets=np.zeros(2),
            suffixes=np.array(list(SUFFIXES)),
            folders=np.zeros(0, np.uint8),
            changed=changed,
            passed_over=np.array("{}"),
        )
    else:
        file.write_bytes({"garbage": b"PK garbage", "truncated": content[:-60], "empty": b""}[damage])
    assert paths(ImageIndex.scan(root)) == ["1.jpg"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, cache: Path) -> None:
    root = make_tree(tmp_path / "images", "1.jpg")
    age(root)
    cache.parent.write_text("a file where the cache folder would be")
    assert paths(ImageIndex.scan(root)) == ["1.jpg"]


def test_errors_name_the_folder_and_the_remedy(tmp_path: Path) -> None:
    make_tree(tmp_path, "file.jpg", "images.tar", "empty/notes.txt")
    for name, message in {
        "missing": "missing does not exist",
        "file.jpg": "file.jpg is a file",
        "images.tar": "images.tar is an archive: unpack it",
        "empty": r"empty holds no image: .*\.jpg .*\.npy .*and found 1 \.txt$",
        "n" * 5000: "cannot be looked into",
    }.items():
        with pytest.raises(UserError, match=message):
            ImageIndex.scan(tmp_path / name)


def write_tiff(path: Path) -> None:
    """Twelve channels of 16 bits, which Pillow cannot open."""
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, np.zeros((12, 4, 4), np.uint16), planarconfig="separate", photometric="minisblack")


def write_npy(path: Path) -> None:
    with path.open("wb") as file:  # np.save would add its own .npy
        np.save(file, np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.TIF", write_tiff), ("a.NPY", write_npy), ("a.jpg", lambda path: Image.new("L", (4, 4)).save(path))],
)
def test_one_image_that_looks_like_one_is_enough(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    index = ImageIndex.scan(make_tree(tmp_path / "images", name, "b.tif", "c.jpg", "d.npy"))
    (tmp_path / "images" / "b.tif").write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"no readable image among the 4 tried of 4 .*a\."):
        check_headers(index)
    write(tmp_path / "images" / name)
    check_headers(index)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root can list every folder")
def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "images", "1.jpg", "closed/2.jpg")
    (root / "closed").chmod(0)
    with pytest.raises(UserError, match="closed cannot be listed"):
        ImageIndex.scan(root)


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.npz").write_bytes(b"something else")
    for name, wrong in (("list.npz", " is no list of images"), ("missing.npz", ": No such file")):
        with pytest.raises(UserError, match=f"{name}{wrong}"):
            ImageIndex.load(tmp_path / name)


def test_there_is_no_image_beyond_the_last(tmp_path: Path) -> None:
    index = ImageIndex.scan(make_tree(tmp_path / "images", "1.jpg"))
    for i in (1, -1):
        with pytest.raises(IndexError):
            index[i]


def test_a_save_that_fails_leaves_the_former_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()
    index = ImageIndex.scan(tmp_path)
    index.save(tmp_path / "list.npz")

    def fill_the_disk(file: BinaryIO, **_: object) -> None:
        file.write(b"half of a list")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        index.save(tmp_path / "list.npz")
    assert ImageIndex.load(tmp_path / "list.npz").digest() == index.digest()


def test_columns_and_notes_are_kept_and_selected_along(tmp_path: Path) -> None:
    names = np.frombuffer(b"abc", np.uint8)
    columns = {"label": np.array([4, 5, 6], np.int32)}
    index = ImageIndex(tmp_path, names, np.arange(4), columns=columns, notes={"classes": ["x", "y"]})
    index.select(np.array([2, 0])).save(tmp_path / "list.npz")
    loaded = ImageIndex.load(tmp_path / "list.npz")
    assert [loaded[i] for i in range(2)] == ["a", "c"]
    assert loaded.columns["label"].tolist() == [4, 6]
    assert loaded.notes == {"classes": ["x", "y"]}
    ImageIndex(tmp_path, names, np.arange(4), columns={"label": np.zeros(2)}).save(tmp_path / "bad.npz")
    with pytest.raises(UserError, match="columns"):
        ImageIndex.load(tmp_path / "bad.npz")
