"""Members of tar archives, against Python's tarfile, and what is found of damaged ones."""

import io
import os
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from fcmae.data.archives.members import CUT_OFF, DAMAGED, SPARSE, Member, is_tar, read_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(data))


def write(path: Path, names: list[str], format: int = tarfile.GNU_FORMAT) -> dict[bytes, bytes]:
    """Write files of random bytes; return them by name."""
    generator = random.Random(1)
    files = {name: generator.randbytes(generator.randint(0, 2000)) for name in names}
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in files.items():
            add(archive, name, data)
    return {os.fsencode(name): data for name, data in files.items()}


def members(path: Path, start: int = 0) -> tuple[list[Member], Counter[str]]:
    passed_over: Counter[str] = Counter()
    with path.open("rb") as file:
        found = list(read_members(file.fileno(), start, path.stat().st_size, passed_over))
    return found, passed_over


def contents(path: Path, found: list[Member]) -> dict[bytes, bytes]:
    data = path.read_bytes()
    return {member.name: data[member.start : member.start + member.size] for member in found}


@pytest.mark.parametrize("format", FORMATS)
def test_files_are_found_where_tarfile_finds_them(tmp_path: Path, format: str) -> None:
    long = "folder/" * 20 + "x.jpg" if format == "ustar" else "ä" * 300 + ".jpg"
    names = ["a.jpg", "b/c.png", "../up.jpg", "/absolute.jpg", long, "empty", "line\nfeed.jpg"]
    expected = write(tmp_path / "x.tar", names, FORMATS[format])
    found, passed_over = members(tmp_path / "x.tar")
    assert contents(tmp_path / "x.tar", found) == expected
    assert not passed_over
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert [member.start for member in found] == [each.offset_data for each in archive]


@pytest.mark.skipif(os.system("tar --version | grep -q GNU") != 0, reason="no GNU tar")
def test_the_tar_of_this_machine_is_read_with_its_links_and_sparse_files(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a" * 700)
    os.link(folder / "a.jpg", folder / "hard.jpg")
    (folder / "soft.jpg").symlink_to("a.jpg")
    with (folder / "sparse.jpg").open("wb") as file:
        for place in range(0, 2_000_000, 100_000):  # more holes than fit into one header
            file.seek(place)
            file.write(b"s")
    (folder / "z.jpg").write_bytes(b"z")
    for format in ("gnu", "posix"):
        path = tmp_path / f"{format}.tar"
        assert os.system(f"tar -C {tmp_path} --sort=name --sparse --format={format} -cf {path} f") == 0
        found, passed_over = members(path)
        assert [(each.name, each.target) for each in found] == [
            (b"f/a.jpg", None),
            (b"f/hard.jpg", b"f/a.jpg"),
            (b"f/soft.jpg", b"f/a.jpg"),
            (b"f/z.jpg", None),
        ]
        assert contents(path, found)[b"f/z.jpg"] == b"z"
        assert passed_over == {SPARSE: 1}


def test_folders_devices_and_what_counts_for_all_are_passed_by(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"path": "evil"}) as archive:
        add(archive, "folder", type=tarfile.DIRTYPE)
        add(archive, "pipe", type=tarfile.FIFOTYPE)
        add(archive, "x.jpg", b"x", pax_headers={"comment": "of the file"})
    found, passed_over = members(path)
    assert contents(path, found) == {b"x.jpg": b"x"}
    assert not passed_over


def test_what_follows_damage_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    expected = write(path, [f"{i}.jpg" for i in range(9)])
    whole, _ = members(path)
    data = bytearray(path.read_bytes())
    data[whole[3].start - 512 + 130] ^= 4  # in the size
    path.write_bytes(data)
    found, passed_over = members(path)
    assert contents(path, found) == {name: expected[name] for name in expected if name != b"3.jpg"}
    assert passed_over == {DAMAGED: 1}


def test_archives_behind_each_other_are_read_as_one(tmp_path: Path) -> None:
    expected = write(tmp_path / "a.tar", ["a"]) | write(tmp_path / "b.tar", ["b", "c"])
    (tmp_path / "x.tar").write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    found, passed_over = members(tmp_path / "x.tar")
    assert contents(tmp_path / "x.tar", found) == expected
    assert not passed_over


@pytest.mark.parametrize("keep", [10_000, 512, 700, 0])
def test_an_archive_that_is_cut_off_gives_its_whole_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(5):
            add(archive, f"{i}", bytes([i + 1]) * 4000)
    os.truncate(path, keep)
    found, passed_over = members(path)
    assert contents(path, found) == {str(i).encode(): bytes([i + 1]) * 4000 for i in range(keep // 4608)}
    assert passed_over == ({} if keep == 0 else {CUT_OFF: 1})


def test_claims_of_any_size_take_no_memory_and_end(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    for size in (1 << 33, (1 << 62), 8**11 - 1):
        for kind in (b"0", b"L", b"x", b"S"):
            header.size, header.type = size, kind
            block = header.create_gnu_header(header.get_info(), "utf-8", "strict")
            (tmp_path / "x.tar").write_bytes(block + b"\1" * 100)
            found, passed_over = members(tmp_path / "x.tar")
            assert not found
            assert passed_over


def test_flipped_bits_never_raise_and_never_lead_outside(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    write(path, ["n" * 150, "a", "b"], tarfile.PAX_FORMAT)
    whole, generator = path.read_bytes(), random.Random(3)
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(generator.choice([1, 1, 20])):
            data[generator.randrange(4096)] = generator.randrange(256)
        path.write_bytes(data)
        found, _ = members(path)
        assert all(0 <= each.start <= each.start + each.size <= len(data) for each in found)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    write(tmp_path / "x.tar", ["a"])
    assert is_tar((tmp_path / "x.tar").read_bytes()[:512])
    assert is_tar(bytes(512))
    assert not is_tar(b"")
    assert not is_tar(random.Random(0).randbytes(512))
