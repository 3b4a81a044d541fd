"""The list of the image files of a folder: scanned once, kept compactly, cached between runs."""

import hashlib
import json
import logging
import os
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError, explain
from fcmae.core.files import write_atomically
from fcmae.data.mapped import NOT_ARRAYS, MappedArrays
from fcmae.data.scan import check_folder, walk
from fcmae.data.suffixes import SUFFIXES, find_remedy

logger = logging.getLogger(__name__)
KINDS_TOLD = 8  # of files that were passed over
PIECE = 1 << 20  # images at a time where a list is gone through
COLUMN = "column_"  # before the names of columns, in the file of a list
CLOCK_STEP_NS = 2 * 10**9  # the coarsest time stamp of a file system in use (FAT's)


class ImageIndex:
    """Paths of image files, relative to a root folder, in the order of `sorted(pathlib.Path)`.

    The paths lie end to end in one buffer of bytes: 14 million of them are two arrays of 570 MB, which all
    processes of a machine share, and not objects, whose reference counts would make each worker copy them.
    """

    def __init__(
        self,
        root: str | Path,
        names: np.ndarray,
        offsets: np.ndarray,
        passed_over: dict[str, int] | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the arrays; `ImageIndex.scan` and `ImageIndex.load` make them.

        Args:
            root: folder that the paths are relative to
            names: uint8, all paths end to end
            offsets: int64, n + 1 places in `names`: path i lies between offsets i and i + 1
            passed_over: how many files a scan met that are not read, by suffix, and links that lead nowhere
            columns: what a kind of data keeps of each image beside its path, as a label: n rows each
            notes: what it keeps of all of them, as the names of the classes: whatever JSON can hold
        """
        self.root, self.names, self.offsets = Path(root), names, offsets
        self.passed_over = passed_over or {}
        self.columns, self.notes = dict(columns or {}), dict(notes or {})
        self.file: Path | None = None  # that it was loaded from

    @classmethod
    def scan(cls, root: str | Path) -> "ImageIndex":
        """List the images below a folder, or take the list from the cache where no folder has changed.

        Hidden files and folders are left out. Links are followed; a folder reached twice is listed once.
        Files without a suffix are what their first bytes say. What is passed over is counted and told.

        Args:
            root: any tree of folders

        Raises:
            UserError: the folder is missing, is a file, cannot be read, or holds no image
        """
        root = Path(root).expanduser().absolute()
        check_folder(root)
        index = _read_cache(root)
        if index is None:
            index = _scan(root)
        index.tell_passed_over(root, "all its folders")
        return index

    def tell_passed_over(self, data: str | Path, where: str) -> None:
        """Say how many files were passed over, by kind.

        Args:
            data: what was listed
            where: where in it was looked

        Raises:
            UserError: no image is left
        """
        found = _count_kinds(self.passed_over)
        remedy = find_remedy(self.passed_over)
        remedy = remedy and f"; {remedy}"
        if len(self) == 0:
            raise UserError(
                f"{data} holds no image: looked in {where} for {' '.join(SUFFIXES)} "
                f"and found {found or 'no file'}{remedy}"
            )
        loud = remedy or any(" of " in kind for kind in self.passed_over)  # an archive that is damaged
        if found and current_world().is_rank_zero:
            logger.log(logging.WARNING if loud else logging.INFO, "%s: passed over %s%s", data, found, remedy)

    def save(self, path: str | Path) -> None:
        """Write the list to a .npz file."""
        with write_atomically(Path(path)) as file:
            arrays: dict[str, Any] = {COLUMN + name: column for name, column in self.columns.items()}
            texts: dict[str, Any] = {
                "root": np.array(str(self.root)),
                "notes": np.array(json.dumps(self.notes)),
            }
            np.savez(file, names=self.names, offsets=self.offsets, **texts, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "ImageIndex":
        """Map a list that `save` wrote into memory, which all processes of a machine then share.

        Raises:
            UserError: the file is missing, damaged or something else
            TransientError: it cannot be read now
        """
        try:
            file = MappedArrays(Path(path))
            columns = {name.removeprefix(COLUMN): file[name] for name in file if name.startswith(COLUMN)}
            notes = json.loads(str(file["notes"])) if "notes" in file else {}
            index = cls(str(file["root"]), file["names"], file["offsets"], columns=columns, notes=notes)
            index.file = Path(path)
            return _checked(index)
        except OSError as error:
            raise explain(error, Path(path)) or UserError(f"{path} is no list of images ({error})") from None
        except _NOT_AN_INDEX as error:
            raise UserError(f"{path} is no list of images ({error}): delete it to scan anew") from None

    def __reduce__(self) -> Any:
        """Be loaded anew in a process that is spawned, where there is a file, and not copied."""
        return super().__reduce__() if self.file is None else (ImageIndex.load, (self.file,))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        """Return the path of image i relative to the root."""
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        return os.fsdecode(self.names[self.offsets[i] : self.offsets[i + 1]].tobytes())

    def path(self, i: int) -> Path:
        """Return the path of image i below the root."""
        return self.root / self[i]

    def spread(self, count: int) -> list[int]:
        """Return the numbers of at most `count` images, evenly spaced over the list."""
        numbers: list[int] = np.unique(np.linspace(0, len(self) - 1, count, dtype=np.int64)).tolist()
        return numbers

    def select(self, numbers: np.ndarray) -> "ImageIndex":
        """Return some of the images, by number, in the order of this list."""
        kept = np.zeros(len(self), bool)
        kept[numbers] = True
        sizes = np.diff(self.offsets)
        offsets = np.zeros(np.count_nonzero(kept) + 1, np.int64)
        np.cumsum(sizes[kept], out=offsets[1:])
        columns = {name: column[kept] for name, column in self.columns.items()}
        names, at = np.empty(offsets[-1], np.uint8), 0
        for start in range(0, len(self), PIECE):  # by and by: a mask of all bytes takes as much as they do
            end = min(start + PIECE, len(self))
            piece = self.names[self.offsets[start] : self.offsets[end]]
            piece = piece[np.repeat(kept[start:end], sizes[start:end])]
            names[at : at + len(piece)] = piece
            at += len(piece)
        return ImageIndex(self.root, names, offsets, columns=columns, notes=self.notes)

    def digest(self) -> str:
        """Return a hash of the relative paths and their order, the same on every machine."""
        digest = hashlib.sha256(self.offsets.astype("<i8", copy=False).view(np.uint8).data)
        digest.update(self.names.data)
        return digest.hexdigest()


def load_lists(*files: Path) -> list[ImageIndex]:
    """Read the lists that a run keeps in these files; none where it keeps none, as of data known by name.

    Raises:
        UserError: a file is damaged, or only some are there
    """
    return [ImageIndex.load(file) for file in files] if files[0].exists() else []


def check_digest(lists: list[ImageIndex], digest: str, *files: Path) -> None:
    """Refuse lists that are not those that a job was queued with.

    Args:
        lists: what `load_lists` read
        digest: of the lists that are expected, see `describe_lists`
        files: where they were read

    Raises:
        UserError: they are others, or gone
    """
    found = describe_lists(lists)["digest"] if lists else "absent"
    if found != digest:
        raise UserError(
            f"{files[0]}: the list of images is {found}, and the job was queued with {digest}: "
            "somebody has used the folder since; queue the run again"
        )


def save_lists(lists: list[ImageIndex], *files: Path) -> None:
    """Write lists, if there are any, each to its file."""
    for index, file in zip(lists, files, strict=bool(lists)):
        index.save(file)


def describe_lists(lists: list[ImageIndex]) -> dict[str, int | str]:
    """Return what tells lists apart from others, wherever their images lie: their length and their digest."""
    return {
        "images": sum(map(len, lists)),
        "digest": hashlib.sha256("".join(index.digest() for index in lists).encode()).hexdigest()[:16],
    }


_NOT_AN_INDEX = (OSError, *NOT_ARRAYS)


def _count_kinds(passed_over: dict[str, int]) -> str:
    """Say how many files were passed over of each kind, the most frequent ones first."""
    kinds = sorted(passed_over.items(), key=lambda item: -item[1])
    told = [f"{count} {kind}" for kind, count in kinds[:KINDS_TOLD]]
    if len(kinds) > KINDS_TOLD:
        told.append(f"{sum(count for _, count in kinds[KINDS_TOLD:])} of other kinds")
    return ", ".join(told)


def _checked(index: ImageIndex) -> ImageIndex:
    """Return a list that was read from a file; raise ValueError where its arrays do not fit together."""
    names, offsets = index.names, index.offsets
    if names.dtype != np.uint8 or offsets.dtype != np.int64 or names.ndim != 1 or offsets.ndim != 1:
        raise ValueError("arrays of another type")
    if (
        not len(offsets)
        or offsets[0] != 0
        or offsets[-1] != len(names)
        or (offsets[1:] <= offsets[:-1]).any()
    ):
        raise ValueError("arrays that do not fit together")
    if any(column.shape[:1] != (len(index),) for column in index.columns.values()):
        raise ValueError("columns that do not fit the paths")
    return index


def _scan(root: Path) -> ImageIndex:
    """Walk through the folder, counting on a terminal, and keep the result in the cache."""
    started = time.time_ns()
    folders: dict[str, int] = {}
    passed_over: Counter[str] = Counter()
    names, offsets = bytearray(), array("q", [0])
    console = Console(stderr=True)
    count = TextColumn("Listing {task.description}: {task.completed:,.0f} images")
    with Progress(
        SpinnerColumn(), count, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(escape(str(root)), total=None)
        for name in walk(root, folders, passed_over):
            names += os.fsencode(name)
            offsets.append(len(names))
            if len(offsets) % 1000 == 0:
                bar.update(task, completed=len(offsets))
    index = ImageIndex(root, np.frombuffer(names, np.uint8), np.frombuffer(offsets, np.int64), passed_over)
    if max(folders.values()) < started - CLOCK_STEP_NS:  # a later change would show in the time stamps
        _write_cache(index, folders)
    return index


def cache_file(data: str | Path) -> Path:
    """Return where the list of a folder, or of what else a text names, is kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "fcmae" / f"{hashlib.sha256(os.fsencode(data)).hexdigest()[:32]}.npz"


def _read_cache(root: Path) -> ImageIndex | None:
    """Return the cached list, if it was made of the same suffixes and no folder of it has changed since."""
    try:
        file = MappedArrays(cache_file(root))
        if file["suffixes"].tolist() != list(SUFFIXES):
            return None
        folders = file["folders"].tobytes().split(b"\0")
        changed = [os.stat(os.path.join(os.fsencode(root), folder)).st_mtime_ns for folder in folders]
        if changed != file["changed"].tolist():
            return None
        passed_over = json.loads(str(file["passed_over"]))
        return _checked(ImageIndex(root, file["names"], file["offsets"], passed_over))
    except _NOT_AN_INDEX:
        return None


def _write_cache(index: ImageIndex, folders: dict[str, int]) -> None:
    """Keep the list for the next run; a cache that cannot be written is done without."""
    target = cache_file(index.root)
    draft = target.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as file:
            np.savez(
                file,
                names=index.names,
                offsets=index.offsets,
                suffixes=np.array(list(SUFFIXES)),
                passed_over=np.array(json.dumps(index.passed_over)),
                folders=np.frombuffer(b"\0".join(map(os.fsencode, folders)), np.uint8),
                changed=np.array(list(folders.values()), np.int64),
            )
        draft.replace(target)
