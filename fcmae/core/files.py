"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place once it is safely on disk.

    Whatever goes wrong before that, a former file of that name is untouched and the temporary one is gone;
    only a killed process leaves `<name>.tmp` behind.

    Args:
        path: the file to write, in a folder that exists

    Yields:
        a binary file, open for writing

    Raises:
        OSError: the disk is full or the folder cannot be written
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_durably(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def replace_durably(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing it, and put the rename itself on disk.

    Raises:
        OSError: the folder cannot be written
    """
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
