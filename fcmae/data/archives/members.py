"""What lies where in a tar archive: names, places and sizes of its members, from the headers alone.

Python's tarfile ends its list in silence at the first damaged header, and believes whatever size a header
claims; here what follows damage is found again, and told. Nothing is ever extracted.

The format is that of POSIX.1-2001 (ustar, pax) and of the GNU tar manual, "Basic Tar Format".
"""

import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
PIECE = 1 << 20  # bytes that a search for the next header reads at a time
MAX_EXTENDED = 1 << 20  # bytes of names and attributes before a header; more are damage
DAMAGED, CUT_OFF, SPARSE = "damaged stretches", "members cut off at the end", "sparse members"
_FILES, _LINKS, _EMPTY = (b"0", b"\0", b"7"), (b"1", b"2"), (b"3", b"4", b"5", b"6")  # by type
_GNU_NAME, _GNU_TARGET, _PAX, _GNU_SPARSE = b"L", b"K", (b"x", b"X", b"g"), b"S"
_EXTENDED = (_GNU_NAME, _GNU_TARGET, *_PAX)
_MAGIC, _MAGIC_AT, _POSIX = b"ustar", 257, b"ustar\0"
_SUM = slice(148, 156)  # the check sum's place, which counts as blanks
_SPACES = sum(b" " * 8)


class Member(NamedTuple):
    """A file of an archive, or a link in it.

    Args:
        name: its path, as it stands in the archive
        start: place of its first byte
        size: in bytes
        target: of a link, its path as tar takes it: from the archive's root
    """

    name: bytes
    start: int
    size: int
    target: bytes | None = None


class _Header(NamedTuple):
    """The fields of a header that say what comes after it."""

    name: bytes
    kind: bytes
    size: int
    target: bytes


def read_members(file: int, start: int, end: int, passed_over: Counter[str]) -> Iterator[Member]:
    """Yield the files and links of an archive, in its order.

    Args:
        file: descriptor, of which nothing but a part may be the archive; its position is left alone
        start, end: of that part
        passed_over: is given how many members are damaged, cut off or sparse

    Raises:
        OSError: the file cannot be read
    """
    at, extended = start, dict[bytes, bytes]()
    while at < end:
        block = os.pread(file, BLOCK, at)
        header = _parse(block)
        if header is None:
            if block.strip(b"\0"):
                passed_over[DAMAGED if len(block) == BLOCK else CUT_OFF] += 1
            at, extended = _find_header(file, at + BLOCK, end), {}
            continue
        at += BLOCK
        if header.kind in _EXTENDED:
            if at + header.size <= end and header.size <= MAX_EXTENDED:
                extended |= _read_extended(header.kind, os.pread(file, header.size, at))
                at += _padded(header.size)
            else:
                passed_over[DAMAGED] += 1
            continue
        size, name = _size(extended, header.size), extended.get(b"path", header.name)
        target, extended_before, extended = extended.get(b"linkpath", header.target), extended, {}
        if header.kind in _LINKS:
            yield Member(name, at, 0, _from_root(name, target) if header.kind == b"2" else target)
            continue
        if header.kind in _EMPTY:
            continue
        if header.kind == _GNU_SPARSE:
            at = _skip_sparse_map(file, block, at)
        if at + size > end:
            passed_over[CUT_OFF] += 1
            return
        if header.kind == _GNU_SPARSE or any(key.startswith(b"GNU.sparse") for key in extended_before):
            passed_over[SPARSE] += 1
        elif header.kind in _FILES and not name.endswith(b"/"):  # as folders do in the oldest archives
            yield Member(name, at, size)
        at += _padded(size)


def is_tar(start: bytes) -> bool:
    """Tell by its first 512 bytes whether a file is a tar archive, if perhaps an empty one."""
    return len(start) == BLOCK and (_parse(start) is not None or not start.strip(b"\0"))


def _parse(block: bytes) -> _Header | None:
    """Return the fields of a header; nothing if it is none or is damaged."""
    if len(block) < BLOCK:
        return None
    try:
        stated = _number(block[_SUM])
        if stated != sum(block) - sum(block[_SUM]) + _SPACES and stated != _signed_sum(block):
            return None
        size = _number(block[124:136])
    except ValueError:
        return None
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[_MAGIC_AT:].startswith(_POSIX) else b""
    target = block[157:257].partition(b"\0")[0]
    return _Header(prefix + b"/" + name if prefix else name, block[156:157], size, target)


def _number(field: bytes) -> int:
    """Read a number, octal or, after a byte of 128, binary; raise ValueError where it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    number = int(field.partition(b"\0")[0].strip() or b"0", 8)
    if number < 0:
        raise ValueError("negative")
    return number


def _signed_sum(block: bytes) -> int:
    """Return the check sum as some old programs took it, of signed bytes."""
    return sum(byte - 256 * (byte > 127) for byte in block[:148] + block[156:]) + _SPACES


def _padded(size: int) -> int:
    """Return the size of whole blocks that hold so many bytes."""
    return -(-size // BLOCK) * BLOCK


def _size(extended: dict[bytes, bytes], size: int) -> int:
    """Return a member's size, as a pax header says where it does."""
    stated = extended.get(b"size", b"")
    return int(stated) if stated.isdigit() and len(stated) < 20 else size


def _from_root(name: bytes, target: bytes) -> bytes:
    """Return where a symbolic link leads, from the archive's root."""
    return os.path.normpath(os.path.join(os.path.dirname(name), target))


def _read_extended(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """Return what is said of the member to come: of pax, lines of `LENGTH KEY=VALUE`."""
    if kind in (_GNU_NAME, _GNU_TARGET):
        return {b"path" if kind == _GNU_NAME else b"linkpath": data.partition(b"\0")[0]}
    found, at = dict[bytes, bytes](), 0
    while kind != b"g" and at < len(data):  # what counts for the whole archive says nothing of a place
        length, blank, _ = data[at : at + 20].partition(b" ")
        if not blank or not length.isdigit() or int(length) <= len(length) + 1:
            break
        key, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found[key] = value
        at += int(length)
    return found


def _skip_sparse_map(file: int, block: bytes, at: int) -> int:
    """Return the place behind the blocks in which the map of a sparse member goes on."""
    goes_on = block[482]
    while goes_on:
        goes_on = os.pread(file, BLOCK, at)[504:505] not in (b"", b"\0")
        at += BLOCK
    return at


def _find_header(file: int, at: int, end: int) -> int:
    """Return the place of the first whole header from `at` on, or the end."""
    while at < end:
        piece = os.pread(file, min(PIECE, end - at), at)
        if not piece:
            return end
        found = piece.find(_MAGIC)
        while found >= 0:
            begin = found - _MAGIC_AT
            if begin >= 0 and begin % BLOCK == 0 and _parse(piece[begin : begin + BLOCK]):
                return at + begin
            found = piece.find(_MAGIC, found + 1)
        at += _padded(len(piece))
    return end
