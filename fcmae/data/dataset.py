"""From an image source to a stream of batches that depends on the seed and the sampler's keys alone.

Shapes: B batch, C channels, H W pixels.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset, default_collate

from fcmae.core.errors import UserError
from fcmae.data.decode import BrokenImage
from fcmae.data.images import ImageSource, WatchedSource
from fcmae.data.sampler import Key

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
        data: what the transform returned, each tensor of it stacked to (B, ...)
        source_index: int64 (B,), numbers in the source of the images that were read
        broken: (source index, reason) of the images that could not be read on the way
    """

    data: Any
    source_index: Tensor
    broken: list[tuple[int, str]]

    def pin_memory(self) -> "Batch":
        """Return the batch in memory that a GPU can copy from while it computes."""
        data, source_index = tree_map(Tensor.pin_memory, self.data), self.source_index.pin_memory()
        return replace(self, data=data, source_index=source_index)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its data on a device, without waiting where they are pinned; indices stay."""
        move = partial(Tensor.to, device=device, non_blocking=True)
        return replace(self, data=tree_map(move, self.data))


class ImageDataset(Dataset[Item]):
    """Augmented images by (epoch, index); the same key gives the same pixels in whatever process.

    Args:
        source: where images come from
        transform: from uint8 (C, H, W) to tensors of one size; draws from the global generators
        seed: with epoch and index, determines what the transform draws
    """

    def __init__(self, source: ImageSource, transform: Callable[[Tensor], Any], seed: int) -> None:
        self.source, self.transform, self.seed = WatchedSource(source), transform, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: Key) -> Item:
        """Read and augment one image, or the next readable one after it.

        Raises:
            UserError: 100 images in a row cannot be read
        """
        epoch, index = key
        image, source_index, broken = self._read_next(index)
        with seeded(self.seed, epoch, index):
            return Item(self.transform(image), source_index, broken)

    def _read_next(self, index: int) -> tuple[Tensor, int, list[tuple[int, str]]]:
        """Read image `index`, or the next readable one: the image, its index, and the broken ones before."""
        broken: list[tuple[int, str]] = []
        for attempt in range(min(MAX_BROKEN, len(self))):
            i = (index + attempt) % len(self)
            try:
                return self.source.read(i), i, broken
            except BrokenImage as error:
                broken.append((i, error.reason))
        raise UserError(
            f"{len(broken)} images in a row could not be read, from {self.source.name(index)} on "
            f"({broken[0][1]}): is the data still there?"
        )


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global CPU generators inside a `with` block; restore them after it.

    Transforms draw from whichever of the three their library likes, so that all three are seeded.

    Args:
        key: non-negative integers, for example (seed, epoch, sample)
    """
    python_state, torch_state = random.getstate(), torch.default_generator.get_state()
    numpy_state = np.random.get_state()  # noqa: NPY002 (the global state is what libraries draw from)
    python_seed, numpy_seed, torch_seed = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(python_seed)
    np.random.seed(numpy_seed)  # noqa: NPY002
    torch.default_generator.manual_seed(torch_seed)  # torch.manual_seed would touch CUDA as well
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.default_generator.set_state(torch_state)


def collate(items: list[Item]) -> Batch:
    """Stack items to a batch; inside a worker, in memory that the training process shares."""
    return Batch(
        data=default_collate([item.data for item in items]),
        source_index=torch.tensor([item.source_index for item in items]),
        broken=[report for item in items for report in item.broken],
    )
