"""Every image once, in order, shared among the processes of a run: for measuring and predicting.

Shapes: B batch, C channels, H W pixels.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcmae.data.dataset import Batch, ImageSource, Item, Loader, collate
from fcmae.data.decode import BrokenImage
from fcmae.data.transforms import Size, Transform
from fcmae.engine.distributed import current_world

NOTHING = -1  # `shown` of a row that holds no image


def read_once(
    source: ImageSource,
    transform: Transform,
    *,
    blank: tuple[int, Size],
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    """This process's share of all images: process r of w reads images r, r + w, r + 2 w and so on.

    A broken image, and the filling that gives every process equally many rows (a sharded network needs them
    all to take part), is a black image whose `shown` is -1. Leave such rows out of every count: then each
    image counts once, however ragged the last batch and however many the processes.

    Args:
        source: the images
        transform: from uint8 (C, H', W') to uint8 (C, H, W), without randomness
        blank: channels and (height, width) of the black image
        batch_size: images of one batch and process; the last batch has what is left
        workers: processes that read; 0 reads in this one
        device: on cuda, batches arrive in pinned memory
    """
    world = current_world()
    share = -(-len(source) // world.size)
    numbers = [world.rank + i * world.size for i in range(share)]
    loader = DataLoader(
        _OnceDataset(source, transform, torch.zeros(blank[0], *blank[1], dtype=torch.uint8)),
        batch_size=batch_size,
        sampler=numbers,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the global one
    )
    yield from Loader(loader)


class _OnceDataset(Dataset[Item]):
    """Transformed images by number; a black one for what is broken or beyond the last."""

    def __init__(self, source: ImageSource, transform: Transform, blank: Tensor) -> None:
        self.source, self.transform, self.blank = source, transform, blank

    def __getitem__(self, number: int) -> Item:
        data: Any = self.blank
        if number >= len(self.source):
            return Item(data, number, NOTHING, [])
        try:
            image = self.source.read(number)
        except BrokenImage as error:
            return Item(data, number, NOTHING, [(number, error.reason)])
        return Item(self.transform(image), number, number, [])
