"""A walk through a tree of folders, however deep, linked and littered, that finds the images."""

import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fcmae.core.errors import UserError
from fcmae.data.suffixes import SUFFIXES, looks_like_picture

ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip", ".7z", ".rar")


def check_folder(root: Path) -> None:
    """Refuse what is no folder, and say what to give instead.

    Raises:
        UserError: it is missing, a file, or a name that no folder can have
    """
    try:
        if root.is_dir():
            return
        exists = root.exists()
    except OSError as error:  # names that are too long
        raise UserError(f"{root} cannot be looked into ({error.strerror}): give a folder of images") from None
    if not exists:
        raise UserError(f"{root} does not exist: give a folder of images")
    if root.suffix.lower() in ARCHIVES:
        raise UserError(f"{root} is an archive: unpack it and give the folder")
    raise UserError(f"{root} is a file: give the folder of images that it lies in")


def walk(root: Path, folders: dict[str, int], passed_over: Counter[str]) -> Iterator[str]:
    """Yield the images below a root in order, without recursion: folders may lie a thousand deep.

    Args:
        root: the folder
        folders: is given the time of change of each folder, by path below the root
        passed_over: is given how many files are no images that are read, by kind

    Raises:
        UserError: a folder cannot be listed
    """
    seen: set[tuple[int, int]] = set()
    pending = [_list_folder(root, "", folders, seen, passed_over)]
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
        elif isinstance(entry, str):
            yield entry
        else:
            pending.append(_list_folder(root, entry.folder, folders, seen, passed_over))


class _Subfolder(NamedTuple):
    """A folder met on the way, relative to the root."""

    folder: str


def _list_folder(
    root: Path, folder: str, folders: dict[str, int], seen: set[tuple[int, int]], passed_over: Counter[str]
) -> Iterator[str | _Subfolder]:
    """Yield the images and folders of root/folder in order, nothing if its identity is in `seen`."""
    try:
        status = os.stat(root / folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        folders[folder] = status.st_mtime_ns
        with os.scandir(root / folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        if folder and error.errno in (
            errno.ENAMETOOLONG,
            errno.ENOENT,
            errno.ENOTDIR,
        ):  # the last: it is gone
            passed_over["unreachable folders"] += 1
            return
        raise UserError(f"{root / folder} cannot be listed ({error.strerror}): make it readable") from None
    read = tuple(SUFFIXES)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        is_folder, is_file = _follow(entry)
        suffix = os.path.splitext(entry.name)[1].lower()
        if is_folder:
            yield _Subfolder(f"{folder}{entry.name}/")
        elif not is_file:
            passed_over["links that lead nowhere" if entry.is_symlink() else "special files"] += 1
        elif entry.name.lower().endswith(read) or (not suffix and _begins_like_picture(entry.path)):
            yield folder + entry.name
        else:
            passed_over[suffix or "files without a suffix"] += 1


def _follow(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """Tell whether an entry, or what it links to, is a folder, and whether it is a file."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:  # a loop of links, or a link to a name that is too long
        return False, False


def _begins_like_picture(path: str) -> bool:
    """Tell whether a file without a suffix is a picture."""
    with suppress(OSError), open(path, "rb") as file:
        return looks_like_picture(file.read(12))
    return False
