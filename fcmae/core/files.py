"""Files that appear whole or not at all, and seals that tell whether they are as they were written."""

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

AnyPath = str | os.PathLike[str]
TEMPORARY_SUFFIX = ".tmp"
SEAL = b"sha256:"
SEAL_SIZE = 2 + len(SEAL) + 64  # the length of the comment, and the comment
PIECE = 1 << 20


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place once it is safely on disk.

    Whatever goes wrong before that, a former file of that name is untouched and the temporary one is gone;
    only a killed process leaves `<name>.tmp` behind.

    Args:
        path: the file to write, in a folder that exists

    Yields:
        a binary file, open for writing, and for reading what was written

    Raises:
        OSError: the disk is full or the folder cannot be written
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with named(path):
            with temporary.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            replace_durably(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Have an error of the system name a file, which the system itself does of no write."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def replace_durably(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing it, and put the rename itself on disk.

    Raises:
        OSError: the folder cannot be written
    """
    os.replace(source, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Put on disk which files a folder holds.

    Raises:
        OSError: the folder cannot be opened
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def seal(archive: BinaryIO) -> None:
    """Add the SHA-256 of a zip archive to it, as the archive's comment: readers of archives pass over it.

    Args:
        archive: open for reading and writing, without a comment
    """
    size = archive.seek(-2, os.SEEK_END)  # an archive ends with the length of its comment
    archive.write(_seal_of(archive, size))


def is_intact(path: Path) -> bool | None:
    """Tell whether the bytes of a sealed archive are those that were sealed; None of what has no seal.

    Raises:
        OSError: the file cannot be read
    """
    with path.open("rb") as file:
        size = max(file.seek(0, os.SEEK_END) - SEAL_SIZE, 0)
        file.seek(size)
        found = file.read()
        if not found[2:].startswith(SEAL):
            return None
        return found == _seal_of(file, size)


def _seal_of(file: BinaryIO, size: int) -> bytes:
    """Return the seal of the first `size` bytes of a file, which is left standing behind them."""
    digest = hashlib.sha256()
    file.seek(0)
    left = size
    while left:
        piece = file.read(min(left, PIECE))
        if not piece:
            break
        digest.update(piece)
        left -= len(piece)
    return struct.pack("<H", SEAL_SIZE - 2) + SEAL + digest.hexdigest().encode()
