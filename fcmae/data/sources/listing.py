"""Data in a list of files: a text file with a path a line, relative to the folder of the list."""

from pathlib import Path

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.classes import Halves, label_files
from fcmae.data.index import ImageIndex
from fcmae.data.sources.files import FilesOpener

SUFFIXES = (".txt", ".lst", ".list")
NEWLINE, RETURN = 10, 13


class ListOpener(FilesOpener):
    """A text file of paths; where labels are wanted, the folder of a file names its class."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return spec.lower().endswith(SUFFIXES) and Path(spec).expanduser().is_file()

    @property
    def name(self) -> str:
        return Path(self.spec).stem

    def list_files(self, *, held_out: bool) -> ImageIndex:
        return read_list(Path(self.spec).expanduser())

    def list_halves(self) -> Halves:
        index = self.list_files(held_out=True)
        numbers: dict[str, int] = {}
        labels = np.array(
            [numbers.setdefault(index.path(i).parent.name, len(numbers)) for i in range(len(index))]
        )
        classes = sorted(numbers)
        order = np.empty(len(classes), np.int64)
        order[[numbers[name] for name in classes]] = np.arange(len(classes))
        return label_files(index, classes, order[labels]), None


def read_list(path: Path) -> ImageIndex:
    """Read a text file of paths, in its order; 14 million of them make no string each.

    Args:
        path: the file; empty lines count for nothing

    Raises:
        UserError: it cannot be read, is empty, or is no text
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if (content == 0).any():
        raise UserError(f"{path} is no list of files: give a text file with a path a line")
    if content[:3].tobytes() == b"\xef\xbb\xbf":
        content = content[3:]
    content = content[content != RETURN]
    ends = np.flatnonzero(content == NEWLINE)
    names = content[content != NEWLINE]
    ends = np.append(ends - np.arange(len(ends)), len(names))
    offsets = np.unique(np.append(ends, 0)).astype(np.int64)
    if len(offsets) == 1:
        raise UserError(f"{path} is empty: give a text file with a path a line")
    return ImageIndex(path.absolute().parent, names, offsets)
