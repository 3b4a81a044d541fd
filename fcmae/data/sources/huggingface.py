"""Hugging Face data sets on disk: of save_to_disk, of the cache, or the Parquet files of the hub."""

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.data.classes import RARE_VAL_NAMES, TRAIN_NAMES, VAL_NAMES, some
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener, SourceOptions
from fcmae.data.sources.files import real_path
from fcmae.data.sources.rows import (
    SPLITS,
    SUFFIXES,
    ParquetRows,
    RowFile,
    find_files,
    has_images,
    holds_images,
    kind_of,
    open_rows,
)
from fcmae.data.sources.spec import options_of, place_of
from fcmae.data.sources.table import LABELS

if TYPE_CHECKING:
    from torch import Tensor

    from fcmae.data.images import ImageSource, Labelled

logger = logging.getLogger(__name__)
OPTIONS = ("image", "label")
LARGE_GROUP = 1 << 26  # bytes of a row group that are too many to read for one image


class HuggingFaceOpener(Opener):
    """A folder of Arrow or Parquet files with a column of images, or one such file."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        path = Path(place_of(spec)).expanduser()
        try:
            if path.is_file():
                return path.suffix.lower() in SUFFIXES and has_images(path)
            return path.is_dir() and bool(find_files(path))
        except OSError:
            return False

    @property
    def name(self) -> str:
        return real_path(place_of(self.spec)).stem

    def counts(self, lists: Sequence[ImageIndex]) -> list[int]:
        return [sum(map(len, files)) for files in self.halves if files]

    def list_images(self) -> list[ImageIndex]:
        self.find_column("image", self.halves[0])
        return []

    def list_splits(self, val_fraction: float, seed: int) -> list[ImageIndex]:
        self.read_labels(self.halves[0])
        return []

    def val_classes(self) -> list[str]:
        train, val = self.halves
        return self.read_labels(val or train)[1]

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        """Compare places, whatever columns are taken."""
        return real_path(place_of(self.spec)) == real_path(place_of(other.spec))

    def describe(self, lists: Sequence[ImageIndex]) -> dict[str, int | str]:
        files = [file for half in self.halves for file in half]
        noted = repr([(file.path.name, len(file), file.path.stat().st_size) for file in files])
        digest = hashlib.sha256(noted.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return {"images": sum(map(len, files)), "digest": digest}

    def open_images(self, options: SourceOptions) -> "ImageSource":
        return self.open_rows(self.halves[0], options)

    def open_everything(self, options: SourceOptions) -> "ImageSource":
        return self.open_rows([file for half in self.halves for file in half], options)

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        import torch

        from fcmae.data.images import Labelled

        train, val = self.halves
        labelled = self.open_labelled(train, options)
        if not val:
            return labelled.split(options.val_fraction, options.seed)
        measured = self.open_labelled(val, options)
        unknown = sorted(set(measured.classes) - set(labelled.classes))
        if unknown:
            raise UserError(f"{self.spec}: no training row is of the classes {some(unknown)}")
        places = torch.tensor([labelled.classes.index(name) for name in measured.classes])
        return labelled, Labelled(measured.source, places[measured.labels], labelled.classes)

    def open_validation(self, options: SourceOptions) -> "Labelled":
        train, val = self.halves
        return self.open_labelled(val or train, options)

    @cached_property
    def halves(self) -> tuple[list[RowFile], list[RowFile]]:
        """The files to train on and those to measure on, if the data set says which.

        Raises:
            UserError: there are none, or no training split
        """
        splits = find_files(Path(place_of(self.spec)).expanduser())
        train = [file for name in splits if name in TRAIN_NAMES for file in splits[name]]
        if not train:
            if len(splits) > 1:
                raise UserError(
                    f"{self.spec} has no split train among {some(list(splits))}: give the files of one"
                )
            return open_rows(self.spec, next(iter(splits.values()))), []
        val = next((splits[name] for name in (*VAL_NAMES, *RARE_VAL_NAMES) if name in splits), [])
        left = sorted(set(splits) - set(SPLITS))
        if left and current_world().is_rank_zero:
            logger.warning("%s: the splits %s are not read: give their files", self.spec, some(left))
        opened = open_rows(self.spec, train + val)
        return opened[: len(train)], opened[len(train) :]

    def find_column(self, role: str, files: list[RowFile]) -> str:
        """Return the name of the column of images or labels: that which is asked for, or the first that fits.

        Raises:
            UserError: there is none
        """
        options, schema, features = options_of(self.spec, OPTIONS), files[0].schema, files[0].features()
        if role in options and options[role] in schema.names:
            return options[role]
        kinds = {"image": "Image", "label": "ClassLabel"}
        noted = [name for name, kind in features.items() if kind_of(kind) == kinds[role]]
        if role == "image":
            fits = noted or [field.name for field in schema if holds_images(field.type)]
        else:
            fits = noted or [name for name in schema.names if name.lower() in LABELS]
        if role in options or not fits:
            names = ", ".join(schema.names)
            raise UserError(f"{self.spec}: which of the columns {names} is the {role}? Add :{role}=COLUMN")
        return fits[0]

    def open_rows(self, files: list[RowFile], options: SourceOptions) -> "RowsSource":
        """Open rows as images."""
        large = [
            file for file in files if isinstance(file, ParquetRows) and file.bytes_per_group > LARGE_GROUP
        ]
        if large and current_world().is_rank_zero:
            logger.warning(
                "%s: an image is read with its row group, %d MB; of a copy by fcmae data pack by itself",
                self.spec,
                large[0].bytes_per_group >> 20,
            )
        return RowsSource(files, self.find_column("image", files), options)

    def open_labelled(self, files: list[RowFile], options: SourceOptions) -> "Labelled":
        """Open rows with their labels; those without one are left out."""
        import torch

        from fcmae.data.images import Labelled

        labels, classes = self.read_labels(files)
        opened = Labelled(self.open_rows(files, options), torch.from_numpy(labels), classes)
        if labels.min() >= 0:
            return opened
        numbers = np.flatnonzero(labels >= 0)
        logger.warning("%s: %d rows have no label", self.spec, len(labels) - len(numbers))
        return opened.select(numbers)

    def read_labels(self, files: list[RowFile]) -> tuple[np.ndarray, list[str]]:
        """Return the number of each row's class, -1 where there is none, and the names of the classes.

        Raises:
            UserError: the column holds no single labels, or none at all
        """
        column = self.find_column("label", files)
        noted = files[0].features().get(column, {})
        values = [file.batch(i, column) for file in files for i in range(len(file.ends))]
        kind = files[0].schema.field(column).type
        if kind_of(noted) == "ClassLabel":
            labels = np.concatenate([batch.fill_null(-1).to_numpy(zero_copy_only=False) for batch in values])
            classes = [str(name) for name in noted["names"]]
        elif str(kind) in ("string", "large_string") or str(kind).startswith(("int", "uint")):
            words: dict[Any, int] = {None: -1}
            found = [words.setdefault(word, len(words) - 1) for batch in values for word in batch.to_pylist()]
            known = [word for word in words if word is not None]
            places = {word: place for place, word in enumerate(sorted(known))}
            labels = np.array([*(places[word] for word in known), -1])[np.array(found)]
            classes = [str(word) for word in places]
        else:
            raise UserError(
                f"{self.spec}: the column {column} holds {kind}, but one label a row is trained on"
            )
        if not len(labels) or labels.max() < 0 or labels.max() >= len(classes):
            raise UserError(f"{self.spec}: the column {column} holds no labels of {len(classes)} classes")
        return labels.astype(np.int64), classes


class RowsSource:
    """Images that lie in a column of files of rows, encoded as files are.

    Args:
        files: the files
        column: of bytes, of paths, or of both
        options: how images are read
    """

    def __init__(self, files: list[RowFile], column: str, options: SourceOptions) -> None:
        self.files, self.column, self.options = files, column, options
        self.ends: list[int] = np.cumsum([len(file) for file in files], dtype=np.int64).tolist()

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, i: int) -> str:
        """Return the file and the number of the row in it."""
        file, row = self._find(i)
        return f"{file.path.name} row {row}"

    def read(self, i: int) -> "Tensor":
        """Read image i as `read_image` does."""
        from fcmae.data.decode import read_image

        options = self.options
        path, content = self._content(i)
        return read_image(
            path,
            options.channels,
            value_range=options.value_range,
            no_data=options.no_data,
            content=content,
        )

    def read_bytes(self, i: int) -> bytes:
        """Read the bytes of image i as they lie there; raise BrokenImage or OSError where that cannot be."""
        path, content = self._content(i)
        return path.read_bytes() if content is None else content

    def _content(self, i: int) -> tuple[Path, bytes | None]:
        """Return what image i is called and its bytes, or the path of its file and none."""
        from fcmae.data.decode import BrokenImage

        file, row = self._find(i)
        name = file.path.parent / self.name(i)
        try:
            cell = file.value(row, self.column)
        except Exception as error:  # whatever pyarrow makes of damage
            raise BrokenImage(name, f"damaged ({' '.join(str(error).split())})") from error
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if isinstance(content, str):
            content, path = None, content
        if content is None and path is None:
            raise BrokenImage(name, "holds no image")
        return (file.path.parent / str(path), None) if content is None else (name, content)

    def _find(self, i: int) -> tuple[RowFile, int]:
        """Return the file that image i lies in, and its row there."""
        number = bisect_right(self.ends, i)
        return self.files[number], i - (self.ends[number - 1] if number else 0)
