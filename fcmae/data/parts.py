"""The bytes of images that are parts of archives, read in place by whatever process."""

import os
from collections import OrderedDict
from io import FileIO
from pathlib import Path

from fcmae.data.index import ImageIndex

ARCHIVE, START, SIZE = (
    "archive",
    "start",
    "size",
)  # columns of a list: number of the archive, place and size in it
ARCHIVES = (
    "archives"  # note of a list: its archives, each as [path below the root, bytes, time of change in ns]
)
MAX_OPEN = (
    128  # archives that a process holds open: ImageNet-22K has 21,841 and a process may often hold 1,024
)

_open: OrderedDict[str, FileIO] = OrderedDict()


def read_part(index: ImageIndex, i: int, most: int | None = None) -> bytes | None:
    """Read image i of a list, where it is a part of an archive.

    Args:
        index: the list
        i: number of the image
        most: bytes to read at most, by default all

    Returns:
        nothing where the image is a file of its own

    Raises:
        OSError: the archive is gone or cannot be read
        ValueError: it has become shorter
    """
    if START not in index.columns:
        return None
    path, _, _ = index.notes[ARCHIVES][index.columns[ARCHIVE][i]]
    size = int(index.columns[SIZE][i])
    wanted = size if most is None else min(size, most)
    data = os.pread(_opened(os.path.join(index.root, path)).fileno(), wanted, int(index.columns[START][i]))
    if len(data) < wanted:
        raise ValueError(f"{path} has become shorter since it was listed")
    return data


def read_start(index: ImageIndex, i: int, count: int) -> bytes:
    """Read the first bytes of image i of a list, which may be a file or a part of an archive.

    Raises:
        OSError, ValueError: see `read_part`
    """
    part = read_part(index, i, count)
    if part is not None:
        return part
    with Path(index.path(i)).open("rb") as file:
        return file.read(count)


def _opened(path: str) -> FileIO:
    """Return an archive, open; those not used for long are closed once nobody holds them any more.

    It is only ever read by place, so that processes that inherit it do not disturb each other.
    """
    file = _open.pop(path, None) or open(path, "rb", buffering=0)  # noqa: SIM115
    _open[path] = file
    while len(_open) > MAX_OPEN:
        _open.popitem(last=False)
    return file
