"""Data in a folder of image files: any tree, one folder for each class, or train/ and val/ of those."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcmae.data.classes import ClassFolders, find_classes, find_val_classes
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener, SourceOptions

if TYPE_CHECKING:
    from fcmae.data.images import FolderSource, Labelled


class FolderOpener(Opener):
    """A folder; what no other kind knows is taken for one."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return True

    @property
    def name(self) -> str:
        return os.path.basename(os.path.realpath(self.spec))  # a Path refuses loops of links

    def list_images(self) -> list[ImageIndex]:
        index = ImageIndex.scan(self.spec)
        index.check_headers()
        return [index]

    def list_splits(self, val_fraction: float, seed: int) -> list[ImageIndex]:
        return [part.index for part in find_classes(self.spec, val_fraction, seed)]

    def val_classes(self) -> list[str]:
        return find_val_classes(self.spec).classes

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        """Compare folders with those that the run's lists were made from, wherever it was started."""
        if not isinstance(other, FolderOpener):
            return False
        asked = _real(other.spec)
        roots = [_real(index.root) for index in lists] or [_real(self.spec)]
        train, val = roots[0], roots[-1]
        return asked == val or (train != val and asked == val.parent)  # train/ and val/ in one folder

    def open_images(self, options: SourceOptions) -> "FolderSource":
        [index] = options.lists or self.list_images()
        return open_files(index, options)

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        if options.lists:
            train = ClassFolders.read(options.lists[0])
            val = ClassFolders.read(options.lists[1], train.classes)
        else:
            train, val = find_classes(self.spec, options.val_fraction, options.seed)
        return open_classes(train, options), open_classes(val, options)

    def open_validation(self, options: SourceOptions) -> "Labelled":
        return open_classes(find_val_classes(self.spec), options)


def _real(path: str | Path) -> Path:
    """Follow the links of a path, as far as they lead somewhere."""
    return Path(os.path.realpath(Path(path).expanduser()))


def open_files(index: ImageIndex, options: SourceOptions) -> "FolderSource":
    """Return the images of a list of files, of which one at least can be read.

    Raises:
        UserError: none of those tried can be read
    """
    from fcmae.data.images import FolderSource

    source = FolderSource(index, options.channels, options.value_range, options.no_data)
    source.check()
    return source


def open_classes(data: ClassFolders, options: SourceOptions) -> "Labelled":
    """Return the images of class folders with their labels; see `open_files`."""
    import torch

    from fcmae.data.images import Labelled

    return Labelled(open_files(data.index, options), torch.from_numpy(data.labels), data.classes)
