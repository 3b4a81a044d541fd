"""Data in a folder of image files: any tree, one folder for each class, or train/ and val/ of those."""

import os
from collections.abc import Sequence

import numpy as np

from fcmae.data.classes import Halves, LabelledFiles, find_halves, find_held_out, find_val_classes
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener
from fcmae.data.sources.files import FilesOpener, real_path


class FolderOpener(FilesOpener):
    """A folder; what no other kind knows is taken for one."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return True

    @property
    def name(self) -> str:
        return os.path.basename(os.path.realpath(self.spec))  # a Path refuses loops of links

    def list_files(self, *, held_out: bool) -> ImageIndex:
        index = ImageIndex.scan(self.spec)
        if held_out:
            return index
        kept = np.ones(len(index), bool)
        folders = find_held_out(index)
        for first, end in folders.values():
            kept[first:end] = False
        if kept.all():
            return index
        self.tell_held_out(int((~kept).sum()), " and ".join(f"{name}/" for name in folders))
        return index.select(np.flatnonzero(kept))

    def list_halves(self) -> Halves:
        return find_halves(self.spec)

    def list_val(self) -> LabelledFiles:
        return find_val_classes(self.spec)

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        """Compare folders with those that the run's lists were made from, wherever it was started."""
        if not isinstance(other, FolderOpener):
            return False
        asked = real_path(other.spec)
        roots = [real_path(index.root) for index in lists] or [real_path(self.spec)]
        train, val = roots[0], roots[-1]
        return asked == val or (train != val and asked == val.parent)  # train/ and val/ in one folder
