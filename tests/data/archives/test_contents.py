"""The list of the images in archives: places, labels, folders, links, damage, and its cache."""

import io
import multiprocessing
import os
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fcmae.core.errors import UserError
from fcmae.data.archives import contents as archives
from fcmae.data.archives.contents import (
    FOLDER,
    FOLDERS,
    INDEX_FILE,
    LABELS,
    PASSED_OVER,
    SAMPLE,
    list_archives,
)
from fcmae.data.decode import BrokenImage
from fcmae.data.images import FolderSource
from fcmae.data.index import ImageIndex
from fcmae.data.parts import read_part
from tests.data.archives_helper import picture, write_shard, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(index: ImageIndex) -> list[str]:
    return [index[i] for i in range(len(index))]


def labels(index: ImageIndex) -> list[object]:
    return [None if number < 0 else index.notes[LABELS][number] for number in index.columns[SAMPLE]]


def contents(index: ImageIndex) -> list[bytes]:
    source = FolderSource(index, 3)
    return [source.read_bytes(i) for i in range(len(index))]


@pytest.mark.parametrize("processes", [1, 2])
def test_archives_in_archives_are_read_in_place(tmp_path: Path, processes: int) -> None:
    inner = {
        f"n{i}.tar": write_tar(tmp_path / "x", {f"n{i}_{j}.JPEG": picture(i * 5 + j) for j in range(3)})
        for i in range(4)
    }
    write_tar(tmp_path / "train.tar", inner)
    write_tar(tmp_path / "val.tar", {"v.JPEG": picture(50)})
    index = list_archives(tmp_path, ["train.tar", "val.tar"], processes)
    expected = [f"train.tar/n{i}.tar/n{i}_{j}.JPEG" for i in range(4) for j in range(3)] + ["val.tar/v.JPEG"]
    assert names(index) == expected
    assert contents(index) == [picture(i * 5 + j) for i in range(4) for j in range(3)] + [picture(50)]
    assert [index.notes[FOLDERS][number] for number in index.columns[FOLDER]] == [
        os.path.dirname(name.partition("/")[2]) for name in expected
    ]


def test_samples_have_the_label_beside_them(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", 0, [3, 1])
    write_shard(tmp_path / "1.tar", 2, [1, 0], "json")
    assert labels(list_archives(tmp_path, ["0.tar", "1.tar"])) == [3, 1, 1, 0]


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"a.cls": b"5\n"}, 5),
        ({"a.cls": b"cat"}, "cat"),
        ({"a.cls": b"5", "a.json": b'{"label": 5, "class_name": "n01440764"}'}, "n01440764"),
        ({"a.json": b'{"class_name": "cat"}', "a.cls": b"5"}, "cat"),
        ({"a.json": b"7"}, 7),
        ({"a.json": b'{"label": [1, 2], "caption": "x"}'}, None),
        ({"a.json": b'{"label": true}'}, None),
        ({"a.json": b"[" * 100_000}, None),
        ({"a.json": b"\xff{"}, None),
        ({"a.cls": b""}, None),
        ({"b.cls": b"1"}, None),
    ],
)
def test_labels_that_samples_may_have(tmp_path: Path, files: dict[str, bytes], label: object) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": picture(1), **files})
    assert labels(list_archives(tmp_path, ["x.tar"])) == [label]


def test_of_two_of_one_name_the_later_counts_and_links_are_what_they_lead_to(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in [("./f/a.jpg", picture(1)), ("f/b.jpg", picture(2)), ("f/a.jpg", picture(3))]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        links = {"f/hard.jpg": (tarfile.LNKTYPE, "f/a.jpg"), "soft.jpg": (tarfile.SYMTYPE, "f/../f/b.jpg")}
        links |= {"hop.jpg": (tarfile.SYMTYPE, "soft.jpg"), "out.jpg": (tarfile.SYMTYPE, "/etc/passwd")}
        links |= {"round.jpg": (tarfile.SYMTYPE, "round.jpg")}
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    index = list_archives(tmp_path, ["x.tar"])
    assert dict(zip(names(index), contents(index), strict=True)) == {
        "x.tar/f/a.jpg": picture(3),
        "x.tar/f/b.jpg": picture(2),
        "x.tar/f/hard.jpg": picture(3),
        "x.tar/soft.jpg": picture(2),
        "x.tar/hop.jpg": picture(2),
    }
    assert index.notes[PASSED_OVER] == {"links that lead to no image": 2}


def test_what_is_no_image_is_counted_and_hidden_files_are_not(tmp_path: Path) -> None:
    files = {
        "a.jxl": b"",
        "b.JXL": b"",
        "read me": b"x",
        "._c.jpg": b"x",
        ".d/c.jpg": b"x",
        "photo": picture(1),
    }
    write_tar(tmp_path / "x.tar", files)
    index = list_archives(tmp_path, ["x.tar"])
    assert names(index) == ["x.tar/photo"]
    assert index.passed_over == {".jxl": 2, "files without a suffix": 1}


def test_names_that_lead_out_of_the_archive_are_names(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar",
        {"../../up.jpg": picture(1), "/etc/abs.jpg": picture(2), "l\nf\udcff.jpg": picture(3)},
    )
    index = list_archives(tmp_path, ["x.tar"])
    assert names(index) == ["x.tar/../../up.jpg", "x.tar/etc/abs.jpg", "x.tar/l\nf\udcff.jpg"]
    assert contents(index) == [picture(1), picture(2), picture(3)]
    assert not (tmp_path.parent / "up.jpg").exists()


def test_damage_is_told_by_archive(tmp_path: Path) -> None:
    for i in range(2):
        write_shard(tmp_path / f"{i}.tar", i, [0, 1])
    os.truncate(tmp_path / "1.tar", 3000)
    index = list_archives(tmp_path, ["0.tar", "1.tar"])
    assert index.passed_over == {"members cut off at the end of 1.tar": 1}


def test_the_list_is_made_once_while_the_archives_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "0.tar", 0, [0, 1])
    first = list_archives(tmp_path, ["0.tar"])
    monkeypatch.setattr(archives, "list_part", None)
    again = list_archives(tmp_path, ["0.tar"])
    assert names(again) == names(first)
    assert contents(again) == contents(first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shard(tmp_path / "0.tar", 0, [0, 1, 1])
    assert len(list_archives(tmp_path, ["0.tar"])) == 3


def test_a_list_beside_the_archives_serves_wherever_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        write_shard(tmp_path / "a" / f"{i}.tar", i * 2, [0, 1])
    list_archives(tmp_path / "a", ["0.tar", "1.tar", "2.tar"]).save(tmp_path / "a" / INDEX_FILE)
    (tmp_path / "a").rename(tmp_path / "b")
    os.utime(tmp_path / "b" / "1.tar", (1, 1))
    monkeypatch.setattr(archives, "list_part", None)
    index = list_archives(tmp_path / "b", ["1.tar", "2.tar"])
    assert names(index) == ["1.tar/000002.jpg", "1.tar/000003.jpg", "2.tar/000004.jpg", "2.tar/000005.jpg"]
    assert contents(index) == [picture(i) for i in range(2, 6)]


@pytest.mark.parametrize("start", [b"\x1f\x8b\x08", b"PK\x03\x04", b"text", b""])
def test_other_files_are_refused_by_name(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(start + b"x" * 1000)
    with pytest.raises(UserError, match=r"x\.tar"):
        list_archives(tmp_path, ["x.tar"])


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"y\.tar"):
        list_archives(tmp_path, ["y.tar"])


def test_an_archive_that_shrinks_or_goes_breaks_its_images_only(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", 0, [0, 1])
    source = FolderSource(list_archives(tmp_path, ["0.tar"]), 3)
    os.truncate(tmp_path / "0.tar", 2000)
    assert source.read(0).shape == (3, 20, 24)
    with pytest.raises(BrokenImage, match="shorter"):
        source.read(1)


def test_many_archives_are_not_all_held_open(tmp_path: Path) -> None:
    for i in range(150):
        write_tar(tmp_path / f"{i:03d}.tar", {"x.jpg": picture(i)})
    index = list_archives(tmp_path, [f"{i:03d}.tar" for i in range(150)])
    assert contents(index) == [picture(i) for i in range(150)]
    assert sum("d-arch" in p or ".tar" in p for p in _open_files()) <= 128


def _open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_the_same_archive_at_the_same_time(tmp_path: Path, method: str) -> None:
    write_tar(tmp_path / "x.tar", {f"{i}.jpg": picture(i) for i in range(20)})
    read = partial(read_part, list_archives(tmp_path, ["x.tar"]))
    before = read(3)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read, range(20)) == [picture(i) for i in range(20)]
    assert before == picture(3)


def test_ten_thousand_images_take_24_bytes_each_beside_their_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {f"{i:05d}.jpg": b"x" for i in range(10_000)})
    index = list_archives(tmp_path, ["x.tar"])
    assert sum(column.nbytes for column in index.columns.values()) == 24 * 10_000
    assert np.all(np.diff(index.columns["start"]) == 1024)
