"""The bytes of images that are parts of archives, read in place by whatever process."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from fcmae.data.index import ImageIndex

ARCHIVE, START, SIZE = "archive", "start", "size"  # columns: number of the archive, place and size in it
FILE = -1  # the archive's number of an image that is a file of its own, among others that are parts
ARCHIVES = "archives"  # note: the archives, each as [path below the root, bytes, time of change in ns]
MAX_OPEN = 128  # archives that a process holds open; ImageNet-22K has 21,841, and it may often hold 1,024

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
    if START not in index.columns or index.columns[ARCHIVE][i] == FILE:
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


def join_parts(
    lists: Sequence[ImageIndex], folders: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return columns and notes of lists that are put end to end; none where all of them are of files.

    Args:
        lists: of files, or of parts of archives
        folders: where the root of each lies below the common one
    """
    if not any(START in index.columns for index in lists):
        return {}, {}
    archives: list[Any] = []
    columns: dict[str, list[np.ndarray]] = {ARCHIVE: [], START: [], SIZE: []}
    for index, folder in zip(lists, folders, strict=True):
        own: dict[str, np.ndarray] = dict(index.columns)
        if START not in own:
            types = {ARCHIVE: np.int32, START: np.int64, SIZE: np.uint32}
            own = {
                name: np.full(len(index), FILE if name == ARCHIVE else 0, of) for name, of in types.items()
            }
        number = own[ARCHIVE]
        columns[ARCHIVE].append(np.where(number == FILE, FILE, number + len(archives)).astype(np.int32))
        for name in (START, SIZE):
            columns[name].append(own[name])
        archives += [
            [os.path.normpath(os.path.join(folder, path)), *known]
            for path, *known in index.notes.get(ARCHIVES, [])
        ]
    return {name: np.concatenate(column) for name, column in columns.items()}, {ARCHIVES: archives}


def _opened(path: str) -> FileIO:
    """Return an archive, open; those not used for long are closed once nobody holds them any more.

    It is only ever read by place, so that processes that inherit it do not disturb each other.
    """
    file = _open.pop(path, None) or open(path, "rb", buffering=0)  # noqa: SIM115
    _open[path] = file
    while len(_open) > MAX_OPEN:
        _open.popitem(last=False)
    return file
