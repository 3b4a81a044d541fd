"""Images by number, with labels or without: of files, of memory, or some of another source.

Shapes: C channels, H W pixels, N images.
"""

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.data.classes import split_by_class
from fcmae.data.decode import BrokenImage, ValueRange, read_image
from fcmae.data.index import ImageIndex


class ImageSource(Protocol):
    """Numbered images, read one by one."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Return what to call image i in a report."""

    def read(self, i: int) -> Tensor:
        """Read image i as uint8 (C, H, W); raise BrokenImage where that cannot be."""


class FolderSource:
    """The image files of a list.

    Args:
        index: the list
        channels: C, see `read_image`
        value_range: values of 16-bit and float images that become 0 and 255, by default their full range
    """

    def __init__(self, index: ImageIndex, channels: int, value_range: ValueRange | None = None) -> None:
        self.index, self.channels, self.value_range = index, channels, value_range

    def __len__(self) -> int:
        return len(self.index)

    def name(self, i: int) -> str:
        """Return the path of image i below the folder."""
        return self.index[i]

    def read(self, i: int) -> Tensor:
        """Read image i as `read_image` does."""
        return read_image(self.index.path(i), self.channels, value_range=self.value_range)

    def check(self, tries: int = 32, seconds: float = 1.0) -> None:
        """Try images from all over the list until one can be read.

        Args:
            tries: number of images to try at most
            seconds: start no further try after this time

        Raises:
            UserError: none of them can be read
        """
        deadline = time.monotonic() + seconds
        errors: list[BrokenImage] = []
        for i in self.index.spread(tries):
            try:
                self.read(i)
                return
            except BrokenImage as error:
                errors.append(error)
            if time.monotonic() > deadline:
                break
        raise UserError(
            f"no readable image among the {len(errors)} tried of {len(self)} in {self.index.root}; "
            f"first error: {errors[0]}"
        )


class ArraySource:
    """Images that are in memory.

    Args:
        images: uint8 (N, C, H, W)
        label: what one image is called; image 7 is then "<label> 7"
    """

    def __init__(self, images: Tensor, label: str = "image") -> None:
        self.images, self.label = images, label

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        """Return the label and the number."""
        return f"{self.label} {i}"

    def read(self, i: int) -> Tensor:
        """Return image i."""
        return self.images[i]


class Selection:
    """Some of a source's images.

    Args:
        source: all images
        numbers: int64 (N,), which of them, in this order
    """

    def __init__(self, source: ImageSource, numbers: np.ndarray) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, i: int) -> str:
        """Return what the source calls the image."""
        return self.source.name(int(self.numbers[i]))

    def read(self, i: int) -> Tensor:
        """Read the image from the source."""
        return self.source.read(int(self.numbers[i]))


@dataclass(frozen=True)
class Labelled:
    """Images with labels.

    Args:
        source: the images
        labels: int64 (N,), numbers of the classes
        classes: names of the classes
    """

    source: ImageSource
    labels: Tensor
    classes: list[str]

    def select(self, numbers: np.ndarray) -> "Labelled":
        """Return some of the images, by number and in this order; the classes stay."""
        return Labelled(Selection(self.source, numbers), self.labels[torch.from_numpy(numbers)], self.classes)

    def split(self, fraction: float, seed: int) -> tuple["Labelled", "Labelled"]:
        """Return training and validation images: a fraction of each class is kept for validation.

        Args:
            fraction, seed: see `split_by_class`
        """
        kept, taken = split_by_class(self.labels.numpy(), fraction, seed)
        return self.select(kept), self.select(taken)
