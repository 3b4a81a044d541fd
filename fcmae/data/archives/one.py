"""What one process finds in one tar archive: images, their folders and labels, and the archives inside."""

import json
import os
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.archives.members import Member, read_members
from fcmae.data.suffixes import SUFFIXES, looks_like_picture

NESTED = b".tar"
MAX_LABEL_BYTES = 1 << 20  # of the file that holds a sample's label
MAX_IMAGE_BYTES = 1 << 31
MAX_HOPS = 8  # of links that lead to links
# What a sample's .json may call its class; a name says more than a number.
CLASS_KEYS = ("class_name", "synset", "wnid", "label", "cls", "class", "class_id", "category")
_LABEL_FILES = (b"cls", b"json")

Label = int | str


class Task(NamedTuple):
    """A stretch of a file that is to be listed: an archive, or one in it.

    Args:
        path: the file
        archive: its number
        name: what it is called, with a slash behind
        inside: name of the archive in it, likewise, or nothing
        start, end: of the stretch
    """

    path: str
    archive: int
    name: bytes
    inside: bytes
    start: int
    end: int


class Part(NamedTuple):
    """The N images of one task, in its order.

    Args:
        names: their paths in the file, end to end
        lengths: of the paths, int64 (N,)
        starts, sizes: where each image lies in the file, int64 and uint32 (N,)
        folders: of the images in the file
        folder: which of them each image lies in, int32 (N,)
        labels: of the images
        label: which of them each image has, int32 (N,), -1 for none
        nested: archives in this one, which are further tasks
        passed_over: how many members are no images that are read, by kind
    """

    names: bytes
    lengths: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    folders: list[str]
    folder: np.ndarray
    labels: list[Label]
    label: np.ndarray
    nested: list[Task]
    passed_over: Counter[str]


def list_part(task: Task) -> Part:
    """Read the headers of an archive, and the labels of its samples where it is one of WebDataset's shards.

    Raises:
        UserError: the file cannot be read
    """
    try:
        with open(task.path, "rb", buffering=0) as opened:
            return _list(task, opened.fileno())
    except OSError as error:
        raise UserError(f"{task.path} cannot be read ({(error.strerror or str(error)).lower()})") from None


def _list(task: Task, file: int) -> Part:
    """Sort the members of an archive into images, labels, links and archives."""
    images: dict[
        bytes, tuple[int, int]
    ] = {}  # of two of one name the later counts, as where tar unpacks them
    links: dict[bytes, bytes] = {}
    labels: dict[bytes, Label] = {}
    nested: list[Task] = []
    passed_over: Counter[str] = Counter()
    for member in read_members(file, task.start, task.end, passed_over):
        name = _tidy(member.name)
        key, suffix = _split(name)
        if any(step.startswith(b".") and step != b".." for step in name.split(b"/")):
            continue  # hidden, as macOS's ._x is
        if member.target is not None:
            links[name] = _tidy(member.target)
        elif suffix in _LABEL_FILES:
            label = _read_label(file, member, suffix)
            if suffix == b"json" and isinstance(label, str):
                labels[key] = label
            elif label is not None:
                labels.setdefault(key, label)
        elif name.lower().endswith(NESTED) and not task.inside:
            end = member.start + member.size
            nested.append(Task(task.path, task.archive, task.name, name + b"/", member.start, end))
        elif member.size <= MAX_IMAGE_BYTES and _is_image(file, name, member):
            images[name] = member.start, member.size
        else:
            ending = os.path.splitext(name)[1].lower().decode(errors="replace")
            passed_over[ending or "files without a suffix"] += 1
    _follow(links, images, passed_over)
    return _pack(task, images, labels, nested, passed_over)


def _tidy(name: bytes) -> bytes:
    """Return a path without the ./ and / that some begin with; what .. it has is a name like others."""
    return b"/".join(step for step in name.split(b"/") if step not in (b"", b"."))


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Return the key of WebDataset's sample that a file belongs to, and the rest of its name."""
    folder, slash, base = name.rpartition(b"/")
    stem, _, suffix = base.partition(b".")
    return folder + slash + stem, suffix.lower()


def _is_image(file: int, name: bytes, member: Member) -> bool:
    """Tell whether a member is an image by its name, or by its bytes where that says nothing."""
    if b"." in name.rpartition(b"/")[2]:
        return name.lower().endswith(tuple(os.fsencode(suffix) for suffix in SUFFIXES))
    return looks_like_picture(os.pread(file, min(member.size, 12), member.start))


def _read_label(file: int, member: Member, suffix: bytes) -> Label | None:
    """Return the class that a sample's .cls or .json names; nothing where it names none."""
    data = os.pread(file, min(member.size, MAX_LABEL_BYTES), member.start)
    with suppress(ValueError, RecursionError):
        if suffix == b"cls":
            text = data.decode().strip()
            return int(text) if text.isdecimal() else text or None
        content: Any = json.loads(data)
        if isinstance(content, dict):
            found = (content[key] for key in CLASS_KEYS if key in content)
            return next((each for each in found if type(each) in (int, str) and each != ""), None)
        return content if type(content) is int else None
    return None


def _follow(
    links: dict[bytes, bytes], images: dict[bytes, tuple[int, int]], passed_over: Counter[str]
) -> None:
    """Add the links that lead to images of this archive."""
    for name, target in links.items():
        for _ in range(MAX_HOPS):
            if target in images or target not in links:
                break
            target = links[target]
        if target in images:
            images[name] = images[target]
        else:
            passed_over["links that lead to no image"] += 1


def _pack(
    task: Task,
    images: dict[bytes, tuple[int, int]],
    labels: dict[bytes, Label],
    nested: list[Task],
    passed_over: Counter[str],
) -> Part:
    """Turn what was found into arrays."""
    folders: dict[bytes, int] = {}
    values: dict[Label, int] = {}
    folder, label = (np.full(len(images), -1, np.int32) for _ in range(2))
    for i, name in enumerate(images):
        folder[i] = folders.setdefault(os.path.dirname(task.inside + name), len(folders))
        if labels and (value := labels.get(_split(name)[0])) is not None:
            label[i] = values.setdefault(value, len(values))
    prefix = task.name + task.inside
    places = np.array(list(images.values()), np.int64).reshape(-1, 2)
    return Part(
        b"".join(prefix + name for name in images),
        np.array([len(prefix) + len(name) for name in images], np.int64),
        places[:, 0].copy(),
        places[:, 1].astype(np.uint32),
        [os.fsdecode(each) for each in folders],
        folder,
        list(values),
        label,
        nested,
        passed_over,
    )
