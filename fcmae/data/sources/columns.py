"""Columns of a table that are labels: one class a row, several labels, or numbers; no string is kept a row.

Shapes: N rows, K classes, labels or numbers.
"""

import math
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.classes import Kind

Labels = tuple[list[str], np.ndarray, Kind]
_BETWEEN = re.compile(r"[|;,]")  # labels in one cell
_FLAGS = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0, "": 0, "none": 0}


class LabelColumns(ABC):
    """Labels of the rows so far.

    Args:
        spec: what --data says, for messages
        names: of the columns
    """

    may_be_empty = False

    def __init__(self, spec: str, names: Sequence[str]) -> None:
        self.spec, self.names, self.rows = spec, list(names), 0

    @abstractmethod
    def add(self, cells: Sequence[Any]) -> None:
        """Add a row.

        Raises:
            UserError: a cell is no such label
        """

    @abstractmethod
    def finish(self) -> Labels:
        """Return names, labels and their kind, see `LabelledFiles`."""

    def refuse(self, cell: Any, wanted: str) -> UserError:
        """Return what is wrong with a cell of the row that is added."""
        return UserError(f"{self.spec}: row {self.rows} says {cell!r} in {', '.join(self.names)}: {wanted}")


class ClassColumn(LabelColumns):
    """One class a row, a word or a whole number."""

    def __init__(self, spec: str, names: Sequence[str]) -> None:
        super().__init__(spec, names)
        self.words: dict[str, int] = {}
        self.numbers = array("q")

    def add(self, cells: Sequence[Any]) -> None:
        self.rows += 1
        [cell] = cells
        if isinstance(cell, (list, tuple, dict)):
            raise self.refuse(cell, "of several labels say :labels= in place of :label=")
        if isinstance(cell, float):
            if not cell.is_integer():
                raise self.refuse(cell, "of numbers say :numbers= in place of :label=")
            cell = int(cell)
        self.numbers.append(self.words.setdefault(str(cell), len(self.words)))

    def finish(self) -> Labels:
        """Return the classes, numbers by their value and words by the alphabet, and int64 (N,)."""
        as_numbers = all(word.isdecimal() for word in self.words)
        classes = sorted(self.words, key=lambda word: (int(word), word) if as_numbers else (0, word))
        places = np.empty(len(classes), np.int64)
        places[[self.words[word] for word in classes]] = np.arange(len(classes))
        return classes, places[np.frombuffer(self.numbers, np.int64)], "class"


class TagColumn(LabelColumns):
    """Several labels a row in one cell: a list, or words with | or ; or a comma between them."""

    may_be_empty = True

    def __init__(self, spec: str, names: Sequence[str]) -> None:
        super().__init__(spec, names)
        self.words: dict[str, int] = {}
        self.row_of, self.numbers = array("q"), array("q")

    def add(self, cells: Sequence[Any]) -> None:
        [cell] = cells
        words = cell if isinstance(cell, (list, tuple)) else _BETWEEN.split("" if cell is None else str(cell))
        for word in words:
            if str(word).strip():
                self.numbers.append(self.words.setdefault(str(word).strip(), len(self.words)))
                self.row_of.append(self.rows)
        self.rows += 1

    def finish(self) -> Labels:
        """Return the labels by the alphabet, and uint8 (N, K)."""
        if len(self.words) < 2:
            raise UserError(f"{self.spec}: {self.names[0]} holds fewer than two labels in all")
        names = sorted(self.words)
        places = np.empty(len(names), np.int64)
        places[[self.words[name] for name in names]] = np.arange(len(names))
        labels = np.zeros((self.rows, len(names)), np.uint8)
        labels[np.frombuffer(self.row_of, np.int64), places[np.frombuffer(self.numbers, np.int64)]] = 1
        return names, labels, "labels"


class FlagColumns(LabelColumns):
    """Several labels a row, each in a column of its own that holds 0 or 1."""

    may_be_empty = True

    def __init__(self, spec: str, names: Sequence[str]) -> None:
        super().__init__(spec, names)
        self.flags = bytearray()

    def add(self, cells: Sequence[Any]) -> None:
        self.rows += 1
        for cell in cells:
            word = str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip().lower()
            if word not in _FLAGS:
                raise self.refuse(cell, "a label of its own column is 0 or 1")
            self.flags.append(_FLAGS[word])

    def finish(self) -> Labels:
        """Return the columns' names, and uint8 (N, K)."""
        return self.names, np.frombuffer(self.flags, np.uint8).reshape(-1, len(self.names)), "labels"


class NumberColumns(LabelColumns):
    """Numbers, each in a column of its own."""

    def __init__(self, spec: str, names: Sequence[str]) -> None:
        super().__init__(spec, names)
        self.numbers = array("f")

    def add(self, cells: Sequence[Any]) -> None:
        self.rows += 1
        for cell in cells:
            try:
                number = float(cell)
            except (TypeError, ValueError):
                number = math.nan
            if not math.isfinite(number):
                raise self.refuse(cell, "give a number in each row")
            self.numbers.append(number)

    def finish(self) -> Labels:
        """Return the columns' names, and float32 (N, K)."""
        return self.names, np.frombuffer(self.numbers, np.float32).reshape(-1, len(self.names)), "numbers"


def label_columns(
    spec: str, options: dict[str, str], known: Sequence[str], usual: Sequence[str]
) -> LabelColumns:
    """Choose the columns that are labels.

    Args:
        spec: what --data says
        options: after the colon: label, labels or numbers
        known: names of the columns
        usual: names that a column of classes usually has

    Raises:
        UserError: no such column, or several kinds of labels
    """
    asked = [role for role in ("label", "labels", "numbers") if role in options]
    if len(asked) > 1:
        raise UserError(f"{spec}: give one of {' and '.join(asked)}")
    role = asked[0] if asked else "label"
    folded = {name.strip().lower(): name for name in reversed(known)}
    if asked:
        names = options[role].split("+")
    else:
        names = [folded[name] for name in usual if name in folded][:1]
    for name in names:
        if name not in known:
            raise UserError(f"{spec}: there is no column {name!r} among {', '.join(known)}")
    if not names:
        raise UserError(f"{spec}: which of the columns {', '.join(known)} is the label? Add :label=COLUMN")
    if role == "numbers":
        return NumberColumns(spec, names)
    if role == "labels":
        return TagColumn(spec, names) if len(names) == 1 else FlagColumns(spec, names)
    if len(names) > 1:
        raise UserError(f"{spec}: {options[role]} are several columns: say :labels= in place of :label=")
    return ClassColumn(spec, names)
