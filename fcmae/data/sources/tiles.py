"""Data in arrays and slides, cut into tiles that are read one by one: .npy, .npz, zarr, TIFF."""

import hashlib
import logging
import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.arrays.tiling import Stack, Tiling
from fcmae.data.arrays.windows import is_array, list_members, open_array
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener, SourceOptions
from fcmae.data.sources.files import real_path
from fcmae.data.sources.listing import ListOpener, read_list
from fcmae.data.sources.spec import options_of, place_of

if TYPE_CHECKING:
    from torch import Tensor

    from fcmae.data.images import ImageSource, Labelled

logger = logging.getLogger(__name__)
OPTIONS = ("tile", "axes", "images", "labels")
TILE = 512  # pixels
SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".npy")
ZARR = ".zarr"
# Names of the arrays of images and labels in an .npz: to train on, to measure on, and of all.
TRAIN = (("train_images", "train_labels"), ("x_train", "y_train"), ("X_train", "y_train"))
VAL = (
    ("val_images", "val_labels"),
    ("test_images", "test_labels"),
    ("x_test", "y_test"),
    ("X_test", "y_test"),
)
ALL = (("images", "labels"), ("x", "y"), ("X", "y"), ("data", "labels"), ("data", "target"))


class TilesOpener(Opener):
    """An array or slide; or, where :tile= says so, a folder or list of them."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        place = Path(place_of(spec)).expanduser()
        if is_array(place):
            return True
        return ":tile=" in spec and (place.is_dir() or ListOpener.matches(str(place)))

    @property
    def name(self) -> str:
        return real_path(place_of(self.spec)).stem

    @cached_property
    def options(self) -> dict[str, str]:
        """What stands after the colon."""
        return options_of(self.spec, OPTIONS)

    @cached_property
    def tile(self) -> int:
        """The side of a tile."""
        tile = self.options.get("tile", str(TILE))
        if not tile.isdecimal() or int(tile) < 1:
            raise UserError(f"{self.spec}: tile is {tile}: give its side in pixels")
        return int(tile)

    @cached_property
    def paths(self) -> list[Path]:
        """The arrays and slides.

        Raises:
            UserError: there are none
        """
        place = Path(place_of(self.spec)).expanduser()
        if ListOpener.matches(str(place)):
            index = read_list(place)
            return [index.path(i) for i in range(len(index))]
        if is_array(place) or not place.is_dir():
            return [place]
        found: list[Path] = []
        for folder, folders, files in os.walk(place, followlinks=False):
            found += [Path(folder, name) for name in files if name.lower().endswith(SUFFIXES)]
            found += [Path(folder, name) for name in folders if name.lower().endswith(ZARR)]
            folders[:] = [name for name in folders if not name.lower().endswith(ZARR)]
        if not found:
            raise UserError(f"{place} holds no slide and no array ({', '.join((*SUFFIXES, ZARR))})")
        return sorted(found)

    def list_images(self) -> list[ImageIndex]:
        _ = self.tile, [open_array(path, self.image_names[0]) for path in self.paths[:1]]
        return []

    def list_splits(self, val_fraction: float, seed: int) -> list[ImageIndex]:
        self.require_labels()
        return self.list_images()

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        """Compare places, however they are cut."""
        return real_path(place_of(self.spec)) == real_path(place_of(other.spec))

    def describe(self, lists: Sequence[ImageIndex]) -> dict[str, int | str]:
        arrays = [open_array(path, name) for path in self.paths for name in self.image_names]
        noted = repr([(array.name, array.shape, str(array.dtype)) for array in arrays] + [self.tile])
        digest = hashlib.sha256(noted.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return {"arrays": len(arrays), "digest": digest}

    @cached_property
    def pairs(self) -> list[tuple[str | None, str | None]]:
        """Names of the arrays of images and labels: to train on and, if there are such, to measure on."""
        place = self.paths[0]
        if "images" in self.options or "labels" in self.options or not place.name.lower().endswith(".npz"):
            return [(self.options.get("images"), self.options.get("labels"))]
        members = list_members(place)
        for pairs in (TRAIN, ALL):
            chosen = next((pair for pair in pairs if pair[0] in members), None)
            if chosen:
                break
        else:
            return [(members[0] if len(members) == 1 else None, None)]
        val = next((pair for pair in VAL if pair[0] in members), None)
        found = [chosen] if chosen in ALL or val is None else [chosen, val]
        return [(images, labels if labels in members else None) for images, labels in found]

    @property
    def image_names(self) -> list[str | None]:
        """Names of the arrays of images; those to train on come first."""
        return [images for images, _ in self.pairs]

    def open_images(self, options: SourceOptions) -> "ImageSource":
        return self.open_tiles(self.image_names[:1], options)

    def open_everything(self, options: SourceOptions) -> "ImageSource":
        return self.open_tiles(self.image_names, options)

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        parts = self.open_labelled(options)
        if len(parts) == 1:
            return parts[0].split(options.val_fraction, options.seed)
        return parts[0], parts[1]

    def open_validation(self, options: SourceOptions) -> "Labelled":
        return self.open_labelled(options)[-1]

    def open_tiles(self, names: list[str | None], options: SourceOptions) -> "TileSource":
        """Open arrays, cut into tiles.

        Raises:
            UserError: one is damaged, or its axes cannot be told
        """
        axes, tile = self.options.get("axes"), self.tile
        arrays = [open_array(path, name) for path in self.paths for name in names]
        stacks = [Stack.of(array, options.channels, axes) for array in arrays]
        source = TileSource([Tiling(stack, tile) for stack in stacks], options)
        source.check()
        return source

    def require_labels(self) -> None:
        """Refuse data without labels.

        Raises:
            UserError: there are none
        """
        if any(labels is None for _, labels in self.pairs):
            raise UserError(
                f"{self.spec} has no labels: give images that have, or :labels=FILE.npy beside .npy"
            )

    def open_labelled(self, options: SourceOptions) -> list["Labelled"]:
        """Open whole pictures with their labels: to train on, and to measure on where the data says which.

        Raises:
            UserError: there are no labels, or not one for each picture
        """
        import torch

        from fcmae.data.images import Labelled

        self.require_labels()
        path = self.paths[0]
        labels = [_read_labels(path, str(name)) for _, name in self.pairs]
        classes, parts = np.unique(np.concatenate(labels)), []
        for (images, _), each in zip(self.pairs, labels, strict=True):
            stack = Stack.of(open_array(path, images), options.channels, self.options.get("axes"))
            if len(stack) != len(each):
                raise UserError(f"{self.spec}: {len(stack)} images and {len(each)} labels: give one for each")
            source = TileSource([Tiling(stack, max(stack.size))], options)
            source.check()
            numbers = torch.from_numpy(np.searchsorted(classes, each))
            parts.append(Labelled(source, numbers, [str(name) for name in classes.tolist()]))
        return parts


def _read_labels(path: Path, name: str) -> np.ndarray:
    """Read labels (N,) or (N, 1): an array of an .npz, or a .npy file beside the images.

    Raises:
        UserError: they are no single whole numbers
    """
    is_npz = path.name.lower().endswith(".npz")
    array = open_array(path, name) if is_npz else open_array(path.parent / name)
    labels = array.read(tuple(slice(0, length) for length in array.shape))
    if labels.dtype.kind not in "ui" or labels.size != len(labels):
        raise UserError(
            f"{path}: the labels {name} are {labels.dtype} of shape {labels.shape}: give a whole number each"
        )
    return labels.reshape(-1)


class TileSource:
    """Tiles of arrays, by number.

    Args:
        tilings: the arrays
        options: how images are read
    """

    def __init__(self, tilings: list[Tiling], options: SourceOptions) -> None:
        self.tilings, self.options = tilings, options
        self.ends: list[int] = np.cumsum([len(tiling) for tiling in tilings], dtype=np.int64).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, i: int) -> str:
        """Return the file, the number of the picture in it, and the upper left corner of the tile."""
        tiling, at = self._find(i)
        picture, rows, columns = tiling.window(at)
        return f"{tiling.stack.array.name} picture {picture} at {rows.start},{columns.start}"

    def read(self, i: int) -> "Tensor":
        """Read tile i as uint8 (C, H, W); raise BrokenImage where that cannot be."""
        from fcmae.data.decode import BrokenImage, to_image
        from fcmae.data.pictures import Picture

        tiling, at = self._find(i)
        array, options = tiling.stack.array, self.options
        try:
            picture = Picture(tiling.stack.read(*tiling.window(at)), array.is_colour, array.has_alpha)
            return to_image(picture, options.channels, options.value_range, options.no_data)
        except Exception as error:  # damaged files make decoders raise nearly anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BrokenImage(Path(self.name(i)), reason) from error

    def check(self, tries: int = 8) -> None:
        """Try tiles from all over until one can be read.

        Raises:
            UserError: none of them can be read
        """
        from fcmae.data.decode import BrokenImage

        errors: list[BrokenImage] = []
        for i in np.unique(np.linspace(0, len(self) - 1, tries, dtype=np.int64)).tolist():
            try:
                self.read(i)
                return
            except BrokenImage as error:
                errors.append(error)
        raise UserError(f"no readable tile among the {len(errors)} tried; first error: {errors[0]}")

    def _find(self, i: int) -> tuple[Tiling, int]:
        """Return the array of tile i, and its number there."""
        number = bisect_right(self.ends, i)
        return self.tilings[number], i - (self.ends[number - 1] if number else 0)
