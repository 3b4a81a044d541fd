"""Pictures that are stacked in an array, and the tiles that they are cut into.

Axes are letters: y and x of a picture, c of its channels, anything else of a stack of pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.arrays.windows import DiskArray


@dataclass(frozen=True)
class Stack:
    """Pictures of one size in an array.

    Args:
        array: where they lie
        axes: a letter for each of its axes
    """

    array: DiskArray
    axes: str

    @classmethod
    def of(cls, array: DiskArray, channels: int, axes: str | None = None) -> "Stack":
        """Tell which axis is which: as is said, as the file says, or as the shape and the channels do.

        Raises:
            UserError: it cannot be told
        """
        shape, last = array.shape, array.shape[-1] if array.shape else 0
        is_last = last == channels or last in (1, 3, 4)
        guessed = {
            2: "yx",
            3: "yxc" if is_last else "cyx" if channels > 1 and shape[0] == channels else "nyx",
            4: "nyxc" if is_last else "ncyx" if shape[1:2] and shape[1] in (channels, 1, 3, 4) else None,
        }.get(len(shape))
        found = axes or array.axes or guessed
        if found is None or len(found) != len(shape) or found.count("y") != 1 or found.count("x") != 1:
            raise UserError(
                f"{array.name} has shape {shape}: say which axis is which, as in :axes=nyxc, where y and x "
                "are those of a picture, c its channels and any other letter is of a stack of pictures"
            )
        return cls(array, found)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.array.shape[self.axes.index("y")], self.array.shape[self.axes.index("x")]

    @property
    def outer(self) -> list[int]:
        """Lengths of the axes along which pictures are stacked."""
        return [length for length, axis in zip(self.array.shape, self.axes, strict=True) if axis not in "yxc"]

    def __len__(self) -> int:
        return math.prod(self.outer)

    def read(self, number: int, rows: slice, columns: slice) -> np.ndarray:
        """Read a window of one picture as (h, w) or (h, w, c)."""
        places: Sequence[Any] = list(np.unravel_index(number, self.outer)) if self.outer else []
        stacked = iter(places)
        box, kept = [], ""
        for length, axis in zip(self.array.shape, self.axes, strict=True):
            if axis in "yxc":
                box.append({"y": rows, "x": columns}.get(axis, slice(0, length)))
                kept += axis
            else:
                at = int(next(stacked))
                box.append(slice(at, at + 1))
        window = self.array.read(tuple(box))
        window = window.reshape(
            [size for size, axis in zip(window.shape, self.axes, strict=True) if axis in "yxc"]
        )
        return window.transpose([kept.index(axis) for axis in "yxc" if axis in kept])


@dataclass(frozen=True)
class Tiling:
    """How pictures of one size are cut; the last tiles of a row or column overlap those before.

    Args:
        stack: the pictures
        tile: side of a tile; smaller pictures are taken whole
    """

    stack: Stack
    tile: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        height, width = self.stack.size
        return -(-height // self.tile), -(-width // self.tile)

    def __len__(self) -> int:
        return len(self.stack) * self.grid[0] * self.grid[1]

    def window(self, i: int) -> tuple[int, slice, slice]:
        """Return the picture of tile i, and the rows and columns of pixels that it takes."""
        picture, row, column = (int(at) for at in np.unravel_index(i, (len(self.stack), *self.grid)))
        slices = []
        for at, length in zip((row, column), self.stack.size, strict=True):
            first = max(min(at * self.tile, length - self.tile), 0)
            slices.append(slice(first, min(first + self.tile, length)))
        return picture, slices[0], slices[1]
