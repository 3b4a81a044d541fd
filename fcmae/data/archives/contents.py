"""The list of the images in tar archives and in archives inside those: made once from headers, and cached."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.archives.members import CUT_OFF, DAMAGED, is_tar
from fcmae.data.archives.one import Label, Part, Task, list_part
from fcmae.data.index import ImageIndex, cache_file
from fcmae.data.parts import ARCHIVE, ARCHIVES, SIZE, START
from fcmae.data.progress_bar import progress
from fcmae.data.suffixes import SUFFIXES

FOLDER, SAMPLE = "folder", "sample"  # columns: numbers in the notes FOLDERS and LABELS; -1 is no label
FOLDERS, LABELS, PASSED_OVER, READ = "folders", "labels", "passed_over", "how_read"  # notes
INDEX_FILE = "index.npz"  # of this list, beside archives that `fcmae data pack` made
FORMAT = 1  # of the list: one more wherever the same archives give another one
SMALL = 1 << 28  # bytes of archives that one process has listed before others have started
PROCESSES = 16

Archive = list[Any]
"""[path below the root, bytes, time of change in ns]"""


def list_archives(root: Path, files: Sequence[str], processes: int | None = None) -> ImageIndex:
    """List the images in tar archives, in the order of the archives and in theirs, or take the cached list.

    Its paths are those of the archives with those in them behind; its columns say where the bytes lie, and
    which folder and which label each image has. Of two members of one name the later counts, as it would if
    the archive were unpacked, and a link is what it leads to.

    Args:
        root: folder of the archives
        files: their paths below it
        processes: that read headers at a time, by default by the size of the archives

    Raises:
        UserError: an archive is missing, compressed or no archive
    """
    archives = [_describe(root, file) for file in files]
    index = _read_cache(root, archives)
    if index is None:
        index = _join(root, archives, _list(root, archives, processes))
        with suppress(OSError):  # a cache that cannot be written is done without
            target = _cache_of(root, archives)
            target.parent.mkdir(parents=True, exist_ok=True)
            index.save(target)
    index.passed_over = dict(index.notes[PASSED_OVER])
    return index


def _describe(root: Path, file: str) -> Archive:
    """Return path, size and time of change of an archive; see that it is one."""
    path = root / file
    try:
        with path.open("rb") as opened:
            start, status = opened.read(512), os.stat(opened.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from None
    if not is_tar(start):
        raise UserError(f"{path} is no tar archive, or a damaged one: give one that `tar tf` lists")
    return [file, status.st_size, status.st_mtime_ns]


def _how_read() -> list[int | str]:
    """Return what a list depends on beside the archives."""
    return [FORMAT, *SUFFIXES]


def _cache_of(root: Path, archives: list[Archive]) -> Path:
    """Return where the list of these archives is kept between runs."""
    return cache_file(json.dumps([str(root), *(file for file, _, _ in archives)]))


def _read_cache(root: Path, archives: list[Archive]) -> ImageIndex | None:
    """Return the list that lies beside the archives or in the cache, if they are still the same.

    Those with a list beside them may have been copied: they are the same if their sizes are.
    """
    for file in (root / INDEX_FILE, _cache_of(root, archives)):
        with suppress(UserError):
            index = ImageIndex.load(file)
            kept: list[Archive] = index.notes.get(ARCHIVES, [])
            if file.parent == root:
                sizes = {name: size for name, size, _ in kept}
                same = all(sizes.get(name) == size for name, size, _ in archives)
            else:
                same = kept == archives
            if same and index.notes.get(READ) == _how_read():
                index.root = root
                return take_archives(index, archives)
    return None


def take_archives(index: ImageIndex, archives: list[Archive]) -> ImageIndex:
    """Return the images of a list that lie in some of its archives."""
    kept = [name for name, _, _ in index.notes[ARCHIVES]]
    if len(kept) == len(archives):
        return index
    numbers = np.full(len(kept), -1, np.int32)
    numbers[[kept.index(name) for name, _, _ in archives]] = np.arange(len(archives))
    part = index.select(np.flatnonzero(numbers[index.columns[ARCHIVE]] >= 0))
    part.columns[ARCHIVE] = numbers[part.columns[ARCHIVE]]
    part.notes[ARCHIVES] = archives
    return part


def _list(root: Path, archives: list[Archive], processes: int | None) -> list[tuple[Task, Part]]:
    """Read the headers of all archives, each by one process, and of the archives in them."""
    tasks = [
        Task(str(root / file), number, os.fsencode(file) + b"/", b"", 0, size)
        for number, (file, size, _) in enumerate(archives)
    ]
    found: dict[tuple[int, int], tuple[Task, Part]] = {}
    total = sum(size for _, size, _ in archives)
    what = str(root / archives[0][0]) if len(archives) == 1 else f"{len(archives)} archives in {root}"
    if processes is None:
        processes = min(PROCESSES, os.cpu_count() or 1) if total > SMALL else 1
    with progress(f"Listing {what}", total, "GB", 1e9) as advance:
        try:
            with _executor(processes) as executor:
                for task, part in _run(executor, tasks):
                    found[task.archive, task.start] = task, part
                    advance(task.end - task.start - sum(inner.end - inner.start for inner in part.nested))
        except BrokenProcessPool:
            raise UserError(f"a process that listed {what} was ended: is there memory enough?") from None
    return [found[place] for place in sorted(found)]


@contextmanager
def _executor(processes: int) -> Iterator[Executor | None]:
    """Start processes, if there are to be several."""
    if processes == 1:
        yield None
        return
    with ProcessPoolExecutor(processes) as executor:
        yield executor


def _run(executor: Executor | None, tasks: list[Task]) -> Iterator[tuple[Task, Part]]:
    """Carry out tasks, and those that come of them; yield each as it is done."""
    if executor is None:
        while tasks:
            task = tasks.pop()
            part = list_part(task)
            tasks += part.nested
            yield task, part
        return
    running: dict[Future[Part], Task] = {}
    while tasks or running:
        running |= {executor.submit(list_part, task): task for task in tasks}
        tasks = []
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task, part = running.pop(future), future.result()
            tasks += part.nested
            yield task, part


def _join(root: Path, archives: list[Archive], found: list[tuple[Task, Part]]) -> ImageIndex:
    """Put the parts end to end."""
    folders, labels = dict[str, int](), dict[Label, int]()
    columns = {
        ARCHIVE: [np.full(len(part.lengths), task.archive, np.int32) for task, part in found],
        START: [part.starts for _, part in found],
        SIZE: [part.sizes for _, part in found],
        FOLDER: [_renumbered(part.folder, part.folders, folders) for _, part in found],
        SAMPLE: [_renumbered(part.label, part.labels, labels) for _, part in found],
    }
    passed_over: Counter[str] = Counter()
    for task, part in found:
        where = (task.name + task.inside).rstrip(b"/").decode(errors="replace")
        for kind, count in part.passed_over.items():
            passed_over[f"{kind} of {where}" if kind in (DAMAGED, CUT_OFF) else kind] += count
    notes = {
        ARCHIVES: archives,
        FOLDERS: list(folders),
        LABELS: list(labels),
        PASSED_OVER: dict(passed_over),
        READ: _how_read(),
    }
    names = np.frombuffer(b"".join(part.names for _, part in found), np.uint8)
    offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(part.lengths for _, part in found)]))
    joined = {name: np.concatenate(column) for name, column in columns.items()}
    return ImageIndex(root, names, offsets, columns=joined, notes=notes)


def _renumbered(numbers: np.ndarray, names: Sequence[Any], known: dict[Any, int]) -> np.ndarray:
    """Return numbers of a part's names as those of all names; -1 stays."""
    table = np.array([*(known.setdefault(name, len(known)) for name in names), -1], np.int32)
    renumbered: np.ndarray = table[numbers]
    return renumbered
