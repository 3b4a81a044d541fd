"""Data in tar archives, read in place: WebDataset's shards, ImageNet's own archives, a folder in one tar."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fcmae.core.errors import UserError
from fcmae.data.archives.contents import list_archives
from fcmae.data.archives.labels import find_halves_inside, label_archives, without_origin
from fcmae.data.classes import TRAIN_NAMES, VAL_NAMES, Halves, LabelledFiles, find_splits
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener
from fcmae.data.sources.files import FilesOpener, real_path
from fcmae.data.suffixes import SUFFIXES

SUFFIX = ".tar"
LOOKED_AT = 1000  # files of a folder that tell whether archives or images lie in it
TEST_NAMES = tuple(name for name in VAL_NAMES if "test" in name)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WORDS = re.compile(r"[^a-z]+")


@dataclass(frozen=True)
class Archives:
    """The archives that a name stands for.

    Args:
        root: folder
        train: paths below it of those to train on, or of all
        val: of those to measure on, if the names tell
    """

    root: Path
    train: list[str]
    val: list[str]


class TarOpener(FilesOpener):
    """An archive, a folder of archives, or a pattern such as shards/{000..012}.tar or shards/*.tar."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        path = Path(spec).expanduser()
        try:
            return _holds_archives(path) if path.is_dir() else _is_called_archive(spec)
        except OSError:  # a name that is too long, a loop of links, a folder that cannot be listed
            return False

    @property
    def name(self) -> str:
        name = os.path.basename(os.path.normpath(self.spec)).removesuffix(SUFFIX)
        return re.sub(r"[^\w.-]+", "-", name).strip("-") or "archives"

    def list_files(self, *, held_out: bool) -> ImageIndex:
        archives = find_archives(self.spec)
        files = [*archives.train, *archives.val] if held_out else archives.train
        return without_origin(self._list(archives.root, files))

    def list_halves(self) -> Halves:
        archives = find_archives(self.spec)
        train = self._list(archives.root, archives.train)
        if not archives.val:
            return find_halves_inside(train)
        return label_archives(train), label_archives(self._list(archives.root, archives.val))

    def list_val(self) -> LabelledFiles:
        archives = find_archives(self.spec)
        if archives.val:
            return label_archives(self._list(archives.root, archives.val))
        return super().list_val()

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        return isinstance(other, TarOpener) and real_path(self.spec) == real_path(other.spec)

    def _list(self, root: Path, files: list[str]) -> ImageIndex:
        """List the images of some archives; refuse those without any, and tell what is passed over."""
        index = list_archives(root, files)
        index.tell_passed_over(self.spec, "the archives")
        return index


def find_archives(spec: str) -> Archives:
    """Find the archives that a name stands for, and which of them are to train and to measure on.

    These are told by folders train/ and val/, or by words in the names, as in imagenet1k-train-0000.tar,
    where each archive has such a word. Archives of test images count only where there are no others to
    measure on.

    Raises:
        UserError: there are none, or one is missing
    """
    path = Path(spec).expanduser().absolute()
    if not path.is_dir():
        files = sorted(_expand(str(path)))
        root = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
        return _divide(root, [os.path.relpath(file, root) for file in files])
    train, val = ([] if folder is None else _archives_in(folder) for folder in find_splits(path))
    if train and val:
        return Archives(path, *([os.path.relpath(file, path) for file in half] for half in (train, val)))
    return _divide(path, [file.name for file in _archives_in(path)] or _below(path, train or val))


def _below(root: Path, files: list[Path]) -> list[str]:
    """Return paths below a folder."""
    return [os.path.relpath(file, root) for file in files]


def _holds_archives(folder: Path) -> bool:
    """Tell whether archives lie in a folder, or in its train/ and val/, and no images, which count more."""
    splits = [name for name in _first_names(folder) if name.lower() in (*TRAIN_NAMES, *VAL_NAMES)]
    places = [folder, *(folder / name for name in splits if (folder / name).is_dir())]
    found = [place for place in places if any(map(_is_called_archive, _first_names(place)))]
    return bool(found) and not any(map(_holds_images, found))


def _is_called_archive(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def _first_names(folder: Path) -> list[str]:
    """Return some names in a folder, which may hold millions."""
    with os.scandir(folder) as listing:
        return [entry.name for entry in islice(listing, LOOKED_AT)]


def _holds_images(folder: Path) -> bool:
    """Tell whether there are images among the first files of a tree."""
    files = (name for _, _, names in os.walk(folder) for name in names)
    return any(name.lower().endswith(tuple(SUFFIXES)) for name in islice(files, LOOKED_AT))


def _archives_in(folder: Path) -> list[Path]:
    """Return the archives in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if _is_called_archive(path.name) and path.is_file())


def _divide(root: Path, files: list[str]) -> Archives:
    """Divide archives by the words in their names."""
    words = [set(_WORDS.split(Path(file).stem.lower())) for file in files]
    train = [file for file, each in zip(files, words, strict=True) if each & {*TRAIN_NAMES}]
    test = [file for file, each in zip(files, words, strict=True) if each & {*TEST_NAMES}]
    val = [file for file, each in zip(files, words, strict=True) if each & {*VAL_NAMES} - {*TEST_NAMES}]
    if not train or len({*train, *val, *test}) < len(files) or len(train) == len(files):
        return Archives(root, files, [])
    return Archives(root, train, val or test)


def _expand(pattern: str) -> Iterator[str]:
    """Yield the archives of a pattern with {000..012}, {a,b}, * and ?.

    Raises:
        UserError: one that is named is missing, or a * finds none
    """
    if os.path.lexists(pattern):  # such signs may be part of a name
        yield pattern
        return
    braces = _BRACES.search(pattern)
    if braces is None:
        found = glob.glob(pattern) if glob.has_magic(pattern) else []
        if not found:
            raise UserError(
                f"{pattern} does not exist: give an archive, or a pattern as shards/{{000..012}}.tar"
            )
        yield from found
        return
    choices: Iterable[str] = braces[1].split(",")
    numbers = _RANGE.fullmatch(braces[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        choices = (str(number).zfill(len(numbers[1])) for number in range(first, last + 1))
    for choice in choices:
        yield from _expand(pattern[: braces.start()] + choice + pattern[braces.end() :])
