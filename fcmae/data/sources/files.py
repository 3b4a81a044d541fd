"""What kinds of data share that are lists of image files: folders, lists in a text file, tables."""

import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.data.classes import Halves, LabelledFiles, divide, label_files
from fcmae.data.headers import check_headers
from fcmae.data.index import ImageIndex
from fcmae.data.parts import join_parts
from fcmae.data.sources.base import Opener, SourceOptions

if TYPE_CHECKING:
    from fcmae.data.images import ImageSource, Labelled

logger = logging.getLogger(__name__)


class FilesOpener(Opener):
    """Image files, which a run lists once and then keeps."""

    @abstractmethod
    def list_files(self, *, held_out: bool) -> ImageIndex:
        """List the files.

        Args:
            held_out: also those that are kept for measuring, where the data says which

        Raises:
            UserError: there are none
        """

    @abstractmethod
    def list_halves(self) -> Halves:
        """List labelled files to train on, and those to measure on where the data says which.

        Raises:
            UserError: there are none, or they have no labels
        """

    def list_val(self) -> LabelledFiles:
        """List labelled files to measure other weights on: the second half, or else all.

        Raises:
            UserError: see `list_halves`
        """
        train, val = self.list_halves()
        return train if val is None else val

    def check(self) -> None:
        check_headers(self.list_files(held_out=True))

    def list_images(self) -> list[ImageIndex]:
        index = self.list_files(held_out=False)
        check_headers(index)
        return [index]

    def list_splits(self, val_fraction: float, seed: int) -> list[ImageIndex]:
        return [part.index for part in divide(self.list_halves(), val_fraction, seed)]

    def val_classes(self) -> list[str]:
        return self.list_val().classes

    def open_images(self, options: SourceOptions) -> "ImageSource":
        [index] = options.lists or self.list_images()
        return open_files(index, options)

    def open_everything(self, options: SourceOptions) -> "ImageSource":
        return open_files(self.list_files(held_out=True), options)

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        if options.lists:
            train, val = map(LabelledFiles.read, options.lists)
            val = val.renumber(train.classes)
        else:
            train, val = divide(self.list_halves(), options.val_fraction, options.seed)
        return open_classes(train, options), open_classes(val, options)

    def open_validation(self, options: SourceOptions) -> "Labelled":
        return open_classes(self.list_val(), options)

    def tell_held_out(self, count: int, where: str) -> None:
        """Say how many images are not trained on, since they are kept for measuring, if there are any."""
        if count and current_world().is_rank_zero:
            logger.info(
                "%s: %d images of %s are kept for measuring and not trained on", self.spec, count, where
            )


def real_path(path: str | Path) -> Path:
    """Follow the links of a path, as far as they lead somewhere."""
    return Path(os.path.realpath(Path(path).expanduser()))


def open_files(index: ImageIndex, options: SourceOptions) -> "ImageSource":
    """Return the images of a list of files, of which one at least can be read.

    Raises:
        UserError: none of those tried can be read
    """
    from fcmae.data.images import FolderSource

    source = FolderSource(index, options.channels, options.value_range, options.no_data)
    source.check()
    return source


def open_classes(data: LabelledFiles, options: SourceOptions) -> "Labelled":
    """Return the images of a list of files with their labels; see `open_files`."""
    import torch

    from fcmae.data.images import Labelled

    kind = np.int64 if data.kind == "class" else data.labels.dtype
    labels = torch.from_numpy(data.labels.astype(kind))  # a copy of those that are mapped from a file
    return Labelled(open_files(data.index, options), labels, data.classes, data.kind)


def join_lists(lists: Sequence[ImageIndex]) -> ImageIndex:
    """Return one list of the files of several, and of what lies in archives, in their order."""
    roots = [real_path(index.root) for index in lists]
    root = Path(os.path.commonpath(roots))
    folders = [os.path.relpath(own, root) for own in roots]
    parts = [_prefixed(index, folder) for index, folder in zip(lists, folders, strict=True)]
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    names = np.concatenate([part.names for part in parts])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    columns, notes = join_parts(lists, folders)
    return ImageIndex(root, names, offsets, columns=columns, notes=notes)


def join_labelled(parts: Sequence[LabelledFiles]) -> LabelledFiles:
    """Return one list of the labelled files of several, whose classes are united by their names."""
    for part in parts:
        if part.kind != "class":
            raise UserError(f"{part.index.root}: tables of several labels or of numbers cannot be joined")
    classes = sorted(set().union(*(part.classes for part in parts)))
    labels = np.concatenate([part.renumber(classes).labels for part in parts])
    return label_files(join_lists([part.index for part in parts]), classes, labels)


def _prefixed(index: ImageIndex, folder: str) -> ImageIndex:
    """Return a list whose paths begin with the folder that they lay in; absolute ones stay."""
    if folder == os.curdir:
        return index
    prefix = np.frombuffer(os.fsencode(folder + os.sep), np.uint8)
    sizes = np.diff(index.offsets)
    relative = index.names[index.offsets[:-1]] != ord(os.sep)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes + relative * len(prefix))])
    is_prefix = np.zeros(offsets[-1], bool)
    at = offsets[:-1][relative][:, None] + np.arange(len(prefix))
    is_prefix[at] = True
    names = np.empty(offsets[-1], np.uint8)
    names[at] = prefix
    names[~is_prefix] = index.names
    return ImageIndex(index.root, names, offsets)
