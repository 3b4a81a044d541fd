"""Every image once, in order, shared among the processes of a run: for measuring and predicting.

Shapes: B batch, C channels, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcmae.core.distributed import current_world
from fcmae.data.dataset import Item, Loader, collate
from fcmae.data.decode import BrokenImage
from fcmae.data.images import ImageSource
from fcmae.data.transforms import Size, Transform, resize_center_crop, to_float

NOTHING = -1  # number of a row that holds no image


@dataclass(frozen=True)
class EvaluationBatch:
    """A batch of images to look at.

    Args:
        images: normalised float32 (B, C, H, W), on the device
        numbers: int64 (B,), on the CPU; -1 where the row holds no image
        broken: (number, reason) of images that could not be read
    """

    images: Tensor
    numbers: Tensor
    broken: list[tuple[int, str]]

    def keep(self, rows: Tensor) -> Tensor:
        """The rows (B, ...) that belong to an image."""
        return rows[(self.numbers != NOTHING).to(rows.device)]

    def kept_numbers(self) -> Tensor:
        """The numbers of the images, in the order of `keep`."""
        return self.numbers[self.numbers != NOTHING]


@dataclass(frozen=True)
class Reader:
    """How images are prepared where nothing is left to chance.

    Args:
        image_size, crop_pct: see `resize_center_crop`
        mean, std: of pixels in 0..1, one number a channel
        batch_size: images of one batch and process; the last batch has what is left
        workers: processes that read; 0 reads in this one
        device: where the images go
    """

    image_size: Size
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    workers: int
    device: torch.device

    def read_once(self, source: ImageSource) -> Iterator[EvaluationBatch]:
        """This process's share of all images: process r of w reads images r, r + w, r + 2 w and so on.

        A broken image, and the filling that gives every process equally many rows (a sharded network needs
        them all to take part), is a black image without a number. Leave such rows out of every count: then
        each image counts once, however ragged the last batch and however many the processes.
        """
        world = current_world()
        share = -(-len(source) // world.size)
        blank = torch.zeros(len(self.mean), *self.image_size, dtype=torch.uint8)
        loader = DataLoader(
            _OnceDataset(source, resize_center_crop(self.image_size, self.crop_pct), blank),
            batch_size=self.batch_size,
            sampler=[world.rank + i * world.size for i in range(share)],
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the global one
        )
        for batch in Loader(loader):
            images = to_float(batch.to(self.device).data, self.mean, self.std)
            yield EvaluationBatch(images, batch.source_index, batch.broken)


def share_of_batch(batch_size: int, accumulation_steps: int) -> int:
    """Images that one process of a training holds at a time, at least 1: as many as it may measure at a time.

    Args:
        batch_size: images of one optimiser step, over all processes and accumulation steps
        accumulation_steps: parts of a step
    """
    return max(1, batch_size // (current_world().size * accumulation_steps))


class _OnceDataset(Dataset[Item]):
    """Transformed images by number; a black one for what is broken or beyond the last."""

    def __init__(self, source: ImageSource, transform: Transform, blank: Tensor) -> None:
        self.source, self.transform, self.blank = source, transform, blank

    def __getitem__(self, number: int) -> Item:
        data: Any = self.blank
        if number >= len(self.source):
            return Item(data, NOTHING, [])
        try:
            image = self.source.read(number)
        except BrokenImage as error:
            return Item(data, NOTHING, [(number, error.reason)])
        return Item(self.transform(image), number, [])
