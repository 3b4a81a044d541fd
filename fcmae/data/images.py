"""Images by number, with labels or without: of files, of memory, or some of another source.

Shapes: C channels, H W pixels, N images.
"""

import multiprocessing
import os
import time
from ctypes import c_int64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from fcmae.core.errors import UserError
from fcmae.data.classes import Kind, split_images
from fcmae.data.decode import BrokenImage, ValueRange, read_image
from fcmae.data.index import ImageIndex
from fcmae.data.parts import read_part
from fcmae.data.pictures import Shrink
from fcmae.data.validity import NoData

NOTHING = -1  # what a worker holds between two images


class ImageSource(Protocol):
    """Numbered images, read one by one."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Return what to call image i in a report."""

    def read(self, i: int) -> Tensor:
        """Read image i as uint8 (C, H, W); raise BrokenImage where that cannot be.

        Where the user names no-data values, it is (2 C, H, W), see `fcmae.data.validity`.
        """


def read_shrunk(source: ImageSource, i: int, shrink: Shrink | None) -> Tensor:
    """Read image i of a source, smaller where the source can do that and `shrink` says so.

    Args:
        source: has a method `read_shrunk`, or reads whole images
        i: number of the image
        shrink: see `read_image`
    """
    read = getattr(source, "read_shrunk", None)
    if read is None:
        return source.read(i)
    image: Tensor = read(i, shrink)
    return image


def read_bytes(source: ImageSource, i: int) -> bytes | None:
    """Read the bytes of image i's file; nothing where a source has no files.

    Raises:
        OSError, ValueError: they cannot be read
    """
    read = getattr(source, "read_bytes", None)
    return None if read is None else read(i)


class FolderSource:
    """The images of a list: files, or parts of archives.

    Args:
        index: the list
        channels: C, see `read_image`
        value_range: values of 16-bit and float images that become 0 and 255, by default their full range
        no_data: which stored values are none, see `read_image`
    """

    def __init__(
        self,
        index: ImageIndex,
        channels: int,
        value_range: ValueRange | None = None,
        no_data: NoData | None = None,
    ) -> None:
        self.index, self.channels, self.value_range, self.no_data = index, channels, value_range, no_data

    def __len__(self) -> int:
        return len(self.index)

    def name(self, i: int) -> str:
        """Return the path of image i below the folder."""
        return self.index[i]

    def read(self, i: int) -> Tensor:
        """Read image i as `read_image` does."""
        return self.read_shrunk(i, None)

    def read_shrunk(self, i: int, shrink: Shrink | None) -> Tensor:
        """Read image i, smaller where it is a JPEG and `shrink` says so, see `read_image`."""
        path = self.index.path(i)
        try:
            content = read_part(self.index, i)
        except (OSError, ValueError) as error:
            raise BrokenImage(path, str(error)) from error
        return read_image(
            path,
            self.channels,
            value_range=self.value_range,
            no_data=self.no_data,
            content=content,
            shrink=shrink,
        )

    def read_bytes(self, i: int) -> bytes:
        """Read the bytes of image i as they lie there.

        Raises:
            OSError, ValueError: they cannot be read
        """
        content = read_part(self.index, i)
        return self.index.path(i).read_bytes() if content is None else content

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

    def number(self, i: int) -> int:
        """Return which image of the source image i is."""
        return int(self.numbers[i])

    def name(self, i: int) -> str:
        """Return what the source calls the image."""
        return self.source.name(self.number(i))

    def read(self, i: int) -> Tensor:
        """Read the image from the source."""
        return self.read_shrunk(i, None)

    def read_shrunk(self, i: int, shrink: Shrink | None) -> Tensor:
        """Read the image from the source, smaller where it can."""
        return read_shrunk(self.source, self.number(i), shrink)

    def read_bytes(self, i: int) -> bytes | None:
        """Read the bytes of the image's file, where the source has files."""
        return read_bytes(self.source, self.number(i))


class Remainder(Selection):
    """All but a few of a source's images, without a list of the millions that are left.

    Args:
        source: all images
        left_out: int64, ascending, the numbers of those that are not among them
    """

    def __init__(self, source: ImageSource, left_out: np.ndarray) -> None:
        super().__init__(
            source, left_out - np.arange(len(left_out))
        )  # how many of the others come before each

    def __len__(self) -> int:
        return len(self.source) - len(self.numbers)

    def number(self, i: int) -> int:
        """Return which image of the source image i is."""
        return i + int(self.numbers.searchsorted(i, side="right"))


class WatchedSource:
    """A source whose readers note which image they hold, so that one that ends a process is known.

    Args:
        source: where images come from
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.deadly: set[int] = set()
        self._held: Any = []  # of each worker its process and its image, in memory that all share

    def __len__(self) -> int:
        return len(self.source)

    def name(self, i: int) -> str:
        """Return what the source calls image i."""
        return self.source.name(i)

    def read(self, i: int) -> Tensor:
        """Read image i, unless it has ended a process before; raise BrokenImage where that cannot be."""
        return self.read_shrunk(i, None)

    def read_shrunk(self, i: int, shrink: Shrink | None) -> Tensor:
        """Read image i so, smaller where the source can."""
        if i in self.deadly:
            raise BrokenImage(Path(self.name(i)), "ended the process that read it")
        worker = get_worker_info()
        if worker is None:
            return read_shrunk(self.source, i, shrink)
        self._held[2 * worker.id + 1] = i
        try:
            return read_shrunk(self.source, i, shrink)
        finally:
            self._held[2 * worker.id + 1] = NOTHING

    def read_bytes(self, i: int) -> bytes | None:
        """Read the bytes of image i's file; nothing where there is none, or it cannot be read."""
        try:
            return read_bytes(self.source, i) if i not in self.deadly else None
        except (OSError, ValueError):
            return None  # reading the image says what is wrong

    def watch(self, workers: int) -> None:
        """Make room for the notes of new workers."""
        self._held = multiprocessing.RawArray(c_int64, [0, NOTHING] * workers) if workers else []

    def enter(self, worker: int) -> None:
        """Note the process of a worker, in itself."""
        self._held[2 * worker] = os.getpid()

    def find_deaths(self) -> list[int]:
        """Return what the dead workers held, -1 for nothing; these images will not be read again."""
        alive = {process.pid for process in multiprocessing.active_children()}
        notes = zip(self._held[::2], self._held[1::2], strict=True)
        found = [image for process, image in notes if process and process not in alive]
        self.deadly.update(image for image in found if image != NOTHING)
        return found


@dataclass(frozen=True)
class Labelled:
    """Images with labels.

    Args:
        source: the images
        labels: int64 (N,), numbers of the K classes; several labels uint8 (N, K); numbers float32 (N, K)
        classes: names of the classes, labels or numbers
        kind: which of these it is
    """

    source: ImageSource
    labels: Tensor
    classes: list[str]
    kind: Kind = "class"

    def select(self, numbers: np.ndarray) -> "Labelled":
        """Return some of the images, by number and in this order; the classes stay."""
        labels = self.labels[torch.from_numpy(numbers)]
        return Labelled(Selection(self.source, numbers), labels, self.classes, self.kind)

    def split(self, fraction: float, seed: int) -> tuple["Labelled", "Labelled"]:
        """Return training and validation images: a fraction of each class is kept for validation.

        Args:
            fraction, seed: see `split_images`
        """
        kept, taken = split_images(self.labels.numpy(), self.kind, fraction, seed)
        return self.select(kept), self.select(taken)
