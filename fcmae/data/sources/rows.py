"""Rows of Arrow and Parquet files by number, mapped into memory or a row group at a time; where they lie."""

import json
import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.classes import RARE_VAL_NAMES, TRAIN_NAMES, VAL_NAMES, some

SUFFIXES = (".arrow", ".parquet")
SPLITS = (*TRAIN_NAMES, *VAL_NAMES, *RARE_VAL_NAMES)
NO_SPLITS = ("data", "cache", "part")  # which files are called, too
LOOKED_AT = 1000  # entries of a folder, to tell what it holds
MOST_SETS = 32  # subfolders that are looked into
_SPLIT = re.compile(r"(?:.*[-_.])?(?P<name>[A-Za-z]+)(-\d+-of-\d+)?\.\w+")
CACHE_BYTES = 1 << 28  # of row groups that a process keeps
METADATA = b"huggingface"  # key of what Hugging Face's datasets note of the columns

_CACHE: "OrderedDict[tuple[int, Path, int, str], Any]" = OrderedDict()  # of this process


class RowFile(ABC):
    """Rows of one file.

    Args:
        path: the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.schema: Any = None  # pyarrow's
        self.ends: list[int] = []  # rows up to the end of each batch or row group

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it anew in a process that is not forked."""
        return type(self), (self.path,)

    def value(self, row: int, column: str) -> Any:
        """Return what a row holds in a column.

        Raises:
            Exception: what pyarrow raises of a damaged file
        """
        batch = bisect_right(self.ends, row)
        return self.batch(batch, column)[row - (self.ends[batch - 1] if batch else 0)].as_py()

    @abstractmethod
    def batch(self, number: int, column: str) -> Any:
        """Return a column of one batch or row group."""

    def features(self) -> dict[str, Any]:
        """Return what Hugging Face's datasets note of the columns, by name; nothing of other files."""
        noted = (self.schema.metadata or {}).get(METADATA, b"{}")
        features: dict[str, Any] = (json.loads(noted).get("info") or {}).get("features") or {}
        return features


class ArrowFile(RowFile):
    """A file of Arrow's, mapped into memory: a row is read where it lies, and processes share it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        import pyarrow

        mapped = pyarrow.memory_map(str(path))
        try:
            reader = pyarrow.ipc.open_stream(mapped)
            self.batches = list(reader)
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            reader = pyarrow.ipc.open_file(mapped)
            self.batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.schema = reader.schema
        self.ends = np.cumsum([len(batch) for batch in self.batches], dtype=np.int64).tolist()

    def batch(self, number: int, column: str) -> Any:
        return self.batches[number].column(column)


class ParquetRows(RowFile):
    """A Parquet file, of which each process keeps the row groups that it read last."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._opened: tuple[int, Any] = (0, None)
        metadata = self._file().metadata
        self.schema = self._file().schema_arrow
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        self.ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64).tolist()
        self.bytes_per_group = sum(group.total_byte_size for group in groups) // max(len(groups), 1)

    def _file(self) -> Any:
        """Return the file, open in this process."""
        from pyarrow import parquet

        if self._opened[0] != os.getpid():
            self._opened = (os.getpid(), parquet.ParquetFile(self.path))
        return self._opened[1]

    def batch(self, number: int, column: str) -> Any:
        key, cache = (os.getpid(), self.path, number, column), _CACHE
        if key not in cache:
            group = self._file().read_row_group(number, columns=[column], use_threads=False)
            cache[key] = group.column(column)
            while len(cache) > 1 and sum(kept.nbytes for kept in cache.values()) > CACHE_BYTES:
                cache.popitem(last=False)
        cache.move_to_end(key)
        return cache[key]


def open_rows(spec: str, paths: list[Path]) -> list[RowFile]:
    """Open files of rows, which all have the same columns.

    Args:
        spec: what --data says, for messages
        paths: the files

    Raises:
        UserError: pyarrow is missing, or a file is damaged
    """
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{spec}: Arrow and Parquet need pyarrow: pip install pyarrow") from None
    files: list[RowFile] = []
    for path in paths:
        try:
            files.append((ParquetRows if path.suffix.lower() == ".parquet" else ArrowFile)(path))
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
        if files[-1].schema.names != files[0].schema.names:
            raise UserError(f"{path} has other columns than {paths[0]}: give a folder of one data set")
    return files


def find_files(place: Path) -> dict[str, list[Path]]:
    """List the files of a data set by the lower-case name of their split, which may be missing.

    Args:
        place: a file, the folder of a data set or of its splits, or a snapshot of a repository on the hub

    Returns:
        nothing where a folder holds something else

    Raises:
        UserError: several data sets lie in the folder
        OSError: the folder cannot be listed
    """
    if place.is_file():
        return {"": [place]}
    found: dict[str, list[Path]] = {}
    for path in _list_rows(place):
        found.setdefault(_split_of(path), []).append(path)
    if not found:
        folders = {path.name: _list_rows(path) for path in _subfolders(place)}
        folders = {name: files for name, files in folders.items() if files}
        sets = [name for name in folders if name.lower() not in SPLITS]
        if len(sets) > 1:
            raise UserError(f"{place} holds several data sets, {some(sets)}: give the folder of one")
        for name, files in folders.items():
            for path in files:
                split = name.lower() if name not in sets else _split_of(path)
                found.setdefault(split, []).append(path)
    if found and not has_images(next(iter(found.values()))[0]):
        return {}  # a table beside images, for example
    return found


def _subfolders(place: Path) -> list[Path]:
    """Return the subfolders that may hold files of rows; where there are many, they are classes."""
    with os.scandir(place) as entries:
        found = [
            Path(entry) for entry in islice(entries, LOOKED_AT) if entry.is_dir() and entry.name[0] != "."
        ]
    return sorted(found) if len(found) <= MOST_SETS else []


def _list_rows(folder: Path) -> list[Path]:
    """Return the files of rows of a folder, sorted; a folder of much else is not listed to its end."""
    with os.scandir(folder) as entries:
        if not any(entry.name.lower().endswith(SUFFIXES) for entry in islice(entries, LOOKED_AT)):
            return []
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES))


def _split_of(path: Path) -> str:
    """Return the lower-case name of the split that a file's own name says, if it says one."""
    named = _SPLIT.fullmatch(path.name)
    word = named["name"].lower() if named else ""
    return word if word in SPLITS or (named and named[2] and word not in NO_SPLITS) else ""


def has_images(path: Path) -> bool:
    """Tell whether a file of rows has a column of images; one of paths is a table's."""
    files = open_rows(str(path), [path])
    noted = files[0].features().values()
    return any(holds_images(field.type) for field in files[0].schema) or "Image" in map(kind_of, noted)


def holds_images(kind: Any) -> bool:
    """Tell whether values of a type of pyarrow's may be images: bytes, or a struct that holds some."""
    return "binary" in str(kind) and not str(kind).startswith(("list", "map"))


def kind_of(feature: Any) -> str:
    """Return the type of a column as Hugging Face's datasets note it."""
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""
