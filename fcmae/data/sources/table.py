"""Data in a table, CSV or Parquet, of paths and labels: one row an image."""

import csv
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.classes import (
    RARE_VAL_NAMES,
    TRAIN_NAMES,
    VAL_NAMES,
    Halves,
    label_files,
    some,
)
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener
from fcmae.data.sources.columns import ClassColumn, LabelColumns, label_columns
from fcmae.data.sources.files import FilesOpener, real_path
from fcmae.data.sources.spec import options_of, place_of
from fcmae.data.suffixes import SUFFIXES

OPTIONS = ("path", "label", "labels", "numbers", "split", "folder", "suffix")
PATHS = ("path", "file", "file_name", "filename", "filepath", "file_path", "image", "image_path")
LABELS = ("label", "class", "class_name", "category", "target")
SPLITS = ("split", "subset", "partition")
BATCH = 65536  # rows of a Parquet file at a time


class TableOpener(FilesOpener):
    """A table of files, their labels and perhaps their splits: birds.csv:label=species."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return (
            place_of(spec).lower().endswith((".csv", ".tsv", ".parquet"))
            and Path(place_of(spec)).expanduser().is_file()
        )

    @property
    def name(self) -> str:
        return Path(place_of(self.spec)).stem

    def list_files(self, *, held_out: bool) -> ImageIndex:
        table = read_table(self.spec, labelled=False)
        train, val = table.split()
        if held_out or val is None:
            return table.index
        self.tell_held_out(len(table.index) - len(train), "the other splits")
        return table.index.select(train)

    def list_halves(self) -> Halves:
        table = read_table(self.spec, labelled=True)
        assert table.labels is not None
        data = label_files(table.index, *table.labels.finish())
        train, val = table.split()
        return data.select(train), None if val is None else data.select(val)

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        """Compare the files, whatever columns are taken of them."""
        return isinstance(other, TableOpener) and _place(self.spec) == _place(other.spec)


def _place(spec: str) -> Path:
    """Return the file that a name means."""
    return real_path(place_of(spec))


@dataclass(frozen=True)
class Table:
    """What is kept of a table.

    Args:
        spec: what --data says
        index: the files
        labels: where they are asked for
        splits: names of the splits, where the table says them
    """

    spec: str
    index: ImageIndex
    labels: LabelColumns | None
    splits: ClassColumn | None

    def split(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the numbers of the rows to train on and, where the table says which, of those to measure on.

        Raises:
            UserError: splits of unknown names, or no training images
        """
        if self.splits is None:
            return np.arange(len(self.index)), None
        words, numbers = self.splits.words, np.frombuffer(self.splits.numbers, np.int64)
        folded = {word.lower(): number for word, number in words.items()}
        unknown = sorted(set(folded) - {*TRAIN_NAMES, *VAL_NAMES, *RARE_VAL_NAMES})
        if unknown or not any(name in folded for name in TRAIN_NAMES):
            raise UserError(
                f"{self.spec}: the splits are {some(sorted(words))}: call them train and val (or test)"
            )
        train = np.isin(numbers, [folded[name] for name in TRAIN_NAMES if name in folded])
        val = next((folded[name] for name in (*VAL_NAMES, *RARE_VAL_NAMES) if name in folded), None)
        return np.flatnonzero(train), None if val is None else np.flatnonzero(numbers == val)


def read_table(spec: str, *, labelled: bool) -> Table:
    """Read paths, labels and splits; of millions of rows no string is kept.

    Args:
        spec: a file and, after a colon, the names of its columns where they are not the usual ones; `folder`
            goes before each path and `suffix` after it
        labelled: whether labels are wanted

    Raises:
        UserError: no such column, an empty cell, or a file that is no table
    """
    options, file = options_of(spec, OPTIONS), Path(place_of(spec)).expanduser()
    rows = _read_parquet(spec, file) if file.suffix.lower() == ".parquet" else _read_csv(spec, file)
    columns = next(rows)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{spec} has no rows")
    paths = _find(spec, columns, "path", options, PATHS)
    if paths is None:
        paths = next((i for i, cell in enumerate(first) if str(cell).lower().endswith(tuple(SUFFIXES))), None)
    if paths is None:
        raise UserError(
            f"{spec}: which of the columns {', '.join(columns)} holds the paths? Add :path=COLUMN"
        )
    labels = label_columns(spec, options, columns, LABELS) if labelled else None
    split = _find(spec, columns, "split", options, SPLITS)
    splits = None if split is None else ClassColumn(spec, [columns[split]])
    places = [columns.index(name) for name in labels.names] if labels else []
    needed = [paths, *([] if split is None else [split]), *([] if labels and labels.may_be_empty else places)]
    before, after = options.get("folder", ""), options.get("suffix", "")
    names, offsets = bytearray(), array("q", [0])
    for number, row in enumerate(_chain(first, rows), start=1):
        row += [None] * (len(columns) - len(row))
        for at in needed:
            if row[at] in (None, ""):
                raise UserError(f"{spec}: row {number} has nothing in its column {columns[at]}")
        names += os.fsencode(os.path.join(before, str(row[paths]) + after))
        offsets.append(len(names))
        if labels is not None:
            labels.add([row[at] for at in places])
        if splits is not None and split is not None:
            splits.add([row[split]])
    index = ImageIndex(
        file.absolute().parent, np.frombuffer(names, np.uint8), np.frombuffer(offsets, np.int64)
    )
    return Table(spec, index, labels, splits)


def _find(
    spec: str, columns: list[str], role: str, options: dict[str, str], usual: Iterable[str]
) -> int | None:
    """Return the place of a column: of that named in the options, or else the first of a usual name."""
    if role in options:
        if options[role] not in columns:
            raise UserError(f"{spec}: there is no column {options[role]!r} among {', '.join(columns)}")
        return columns.index(options[role])
    folded = [column.strip().lower() for column in columns]
    return next((folded.index(name) for name in usual if name in folded), None)


def _chain(first: list[Any], rows: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """Yield the first row, then the others."""
    yield first
    yield from rows


def _read_csv(spec: str, file: Path) -> Iterator[list[Any]]:
    """Yield the names of the columns, then the rows; what separates cells is told by the first line."""
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            header = stream.readline()
            if "\0" in header or not header.strip():
                raise UserError(f"{spec} is no table: its first line holds the names of the columns")
            separator = max("\t;,", key=header.count)
            stream.seek(0)
            yield from (row for row in csv.reader(stream, delimiter=separator) if row)
    except (OSError, csv.Error) as error:
        raise UserError(f"{spec} cannot be read as a table ({error})") from None


def _read_parquet(spec: str, file: Path) -> Iterator[list[Any]]:
    """Yield the names of the columns, then the rows."""
    parquet = import_parquet(spec)
    try:
        with parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            yield list(names)
            for batch in opened.iter_batches(BATCH, use_threads=False):
                yield from map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        if isinstance(error, UserError):
            raise
        raise UserError(f"{spec} cannot be read as Parquet ({' '.join(str(error).split())})") from None


def import_parquet(spec: str) -> Any:
    """Return pyarrow's module for Parquet.

    Raises:
        UserError: it is not installed
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{spec}: Parquet needs pyarrow: pip install pyarrow") from None
    return parquet
