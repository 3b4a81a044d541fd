"""From an image source to a stream of batches that depends on the seed and the sampler's keys alone.

Shapes: B batch, C channels, H W pixels.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, default_collate, get_worker_info

from fcmae.core.errors import TransientError
from fcmae.data.decode import BrokenImage
from fcmae.data.encoded import Encoded, ordinary_size
from fcmae.data.images import ImageSource, WatchedSource
from fcmae.data.sampler import Key
from fcmae.data.transforms import RandomCropFlip

MAX_BROKEN = 100  # images in a row; more mean that something else is wrong, a disk that is gone for example


@dataclass
class Item:
    """What a worker makes of one image.

    Args:
        data: what the transform returned
        source_index: number in the source of the image that was read, whose label counts: not the one asked
            for, where that one is broken
        broken: (source index, reason) of the images that could not be read on the way
    """

    data: Any
    source_index: int
    broken: list[tuple[int, str]]


@dataclass
class Batch:
    """A micro-batch: items, stacked.

    Args:
        data: what the transform returned, each tensor of it stacked to (B, ...); images may still be encoded
        source_index: int64 (B,), numbers in the source of the images that were read
        broken: (source index, reason) of the images that could not be read on the way
    """

    data: Any
    source_index: Tensor
    broken: list[tuple[int, str]]

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that a GPU can copy from while it computes."""
        data = tree_map(lambda leaf: leaf.pin_memory(), self.data)
        source_index = self.source_index.pin_memory()
        return replace(self, data=data, source_index=source_index)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its data on a device, without waiting where they are pinned; indices stay.

        What is still encoded is decoded there, and the images of which that fails are broken, too.
        """
        broken = list(self.broken)

        def move(leaf: Tensor | Encoded) -> Tensor:
            if isinstance(leaf, Tensor):
                return leaf.to(device, non_blocking=True)
            images, reasons = leaf.decode(device)
            broken.extend((int(self.source_index[row]), reason) for row, reason in reasons.items())
            return images

        return replace(self, data=tree_map(move, self.data), broken=broken)


class ImageDataset(Dataset[Item]):
    """Augmented images by (turn, index); the same key gives the same pixels in whatever process.

    Args:
        source: where images come from
        transform: from uint8 (C, H, W) to tensors of one size; draws from the global generators
        seed: with turn and index, determines what crop and transform draw
        crop: taken of each image before it is transformed; by default nothing is
        channels: C, where JPEGs are to be decoded later, see `fcmae.data.encoded`; by default they are here
    """

    def __init__(
        self,
        source: ImageSource,
        transform: Callable[[Any], Any],
        seed: int,
        crop: RandomCropFlip | None = None,
        channels: int | None = None,
    ) -> None:
        self.source, self.transform, self.seed, self.crop = WatchedSource(source), transform, seed, crop
        self.channels = channels

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Item:
        """Read and augment one image, or the next readable one after it.

        Raises:
            TransientError: 100 images in a row cannot be read
        """
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Item]:
        """Read and augment images; one of which several keys in a row are is read once."""
        items: list[Item] = []
        for index, group in itertools.groupby(keys, key=itemgetter(1)):
            items += self._make_items(index, [turn for turn, _ in group])
        return items

    def _make_items(self, index: int, turns: list[int]) -> list[Item]:
        """Read image `index`, or the next readable one, and augment it once for each turn."""
        drawn = _Drawn(self.crop, [(self.seed, turn, index) for turn in turns], self.channels)
        image, source_index, broken = self._read_next(index, drawn)
        items = []
        for key in drawn.keys:
            with seeded(*key):
                data = self.transform(drawn.take(image))
            items.append(Item(data, source_index, broken))
            broken = []
        return items

    def _read_next(self, index: int, drawn: "_Drawn") -> tuple[Tensor, int, list[tuple[int, str]]]:
        """Read image `index`, or the next readable one: the image, its index, and the broken ones before."""
        broken: list[tuple[int, str]] = []
        for attempt in range(min(MAX_BROKEN, len(self))):
            i = (index + attempt) % len(self)
            drawn.size = None
            try:
                content = self.source.read_bytes(i) if self.channels is not None else None
                if content is not None and (size := ordinary_size(content)) is not None:
                    drawn.size = size
                    return torch.frombuffer(bytearray(content), dtype=torch.uint8), i, broken
                return self.source.read_shrunk(i, drawn.shrink), i, broken
            except BrokenImage as error:
                broken.append((i, error.reason))
        raise TransientError(
            f"{len(broken)} images in a row could not be read, from {self.source.name(index)} on "
            f"({broken[0][1]}): is the data still there?"
        )


class _Drawn:
    """The crops of one image, which are known before it is decoded.

    Args:
        crop: what is drawn, if anything
        keys: what to seed the generators with, for each crop
        channels: C, where images are decoded later
    """

    def __init__(
        self, crop: RandomCropFlip | None, keys: list[tuple[int, ...]], channels: int | None = None
    ) -> None:
        self.crop, self.keys, self.channels = crop, keys, channels
        self.size: tuple[int, int] | None = None  # of the whole image, where it is decoded smaller

    def shrink(self, height: int, width: int) -> int:
        """Return what all crops of an image of this size allow its sides to be divided by."""
        if self.crop is None or self.crop.most_shrinkage(height, width) == 1:
            return 1
        self.size = height, width
        divisors = []
        for key in self.keys:
            with seeded(*key):
                divisors.append(self.crop.draw(height, width).divisor)
        return min(divisors)

    def take(self, image: Tensor) -> Tensor | Encoded:
        """Take the crop that the generators, seeded anew, draw once more; of a JPEG's bytes, note it."""
        if self.crop is None:
            return image
        height, width = self.size or (image.shape[-2], image.shape[-1])
        crop = self.crop.draw(height, width)
        if self.channels is None:
            return self.crop.apply(image, crop, round(height / image.shape[-2]))
        if image.ndim == 1:
            return Encoded((image,), (0,), (crop,), self.crop, self.channels)
        taken = self.crop.apply(image, crop)
        return Encoded((taken,), (0,), (self.crop.whole(*taken.shape[-2:]),), self.crop, self.channels)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global CPU generators inside a `with` block; restore them after it.

    Transforms draw from whichever of the three their library likes, so that all three are seeded. In a worker
    process nothing else draws, and nothing is restored.

    Args:
        key: non-negative integers, for example (seed, turn, sample)
    """
    drawn_elsewhere = get_worker_info() is None
    if drawn_elsewhere:
        python_state, torch_state = random.getstate(), torch.default_generator.get_state()
        numpy_state = np.random.get_state()  # noqa: NPY002 (the global state is what libraries draw from)
    python_seed, numpy_seed, torch_seed = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(python_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002
    torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would touch CUDA as well
    try:
        yield
    finally:
        if drawn_elsewhere:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            torch.default_generator.set_state(torch_state)


def collate(items: list[Item]) -> Batch:
    """Stack items to a batch; inside a worker, in memory that the training process shares."""
    return Batch(
        data=tree_map(_stack, *(item.data for item in items)),
        source_index=torch.tensor([item.source_index for item in items]),
        broken=[report for item in items for report in item.broken],
    )


def _stack(*leaves: Any) -> Any:
    """Stack one part of the data of several items."""
    return Encoded.join(leaves) if isinstance(leaves[0], Encoded) else default_collate(list(leaves))
