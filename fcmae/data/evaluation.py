"""Every image once, in order, divided among the processes of a run: for measuring and predicting.

Shapes: B batch, C channels, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fcmae.core.distributed import current_world
from fcmae.data.dataset import Item
from fcmae.data.decode import BrokenImage
from fcmae.data.images import ImageSource, WatchedSource
from fcmae.data.loader import Loader
from fcmae.data.transforms import Size, Transform, resize_center_crop, to_float
from fcmae.data.validity import THERE

NO_IMAGE = -1  # source index of a row that holds none


@dataclass(frozen=True)
class EvaluationBatch:
    """A batch of prepared images, of which some rows may hold none.

    Args:
        images: normalised float32 (B, C, H, W), on the device
        source_index: int64 (B,), the images that were read, on the CPU; -1 where a row holds none
        broken: (index, reason) of the images that could not be read
    """

    images: Tensor
    source_index: Tensor
    broken: list[tuple[int, str]]

    def keep(self, rows: Tensor) -> Tensor:
        """Return the rows (B, ...) that belong to an image."""
        return rows[(self.source_index != NO_IMAGE).to(rows.device)]


@dataclass(frozen=True)
class EvaluationReader:
    """How images are prepared where nothing is left to chance.

    Args:
        image_size, crop_pct: see `resize_center_crop`
        mean, std: of pixels in 0..1, C numbers each
        batch_size: images of one batch and process; the last batch has what is left
        workers: processes that read; 0 reads in this one
        device: where the images go
        gaps: whether images say which of their values are there, see `fcmae.data.validity`
    """

    image_size: Size
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    workers: int
    device: torch.device
    gaps: bool = False

    def read_once(self, source: ImageSource) -> Iterator[EvaluationBatch]:
        """Read this process's part of all images: process r of w reads images r, r + w, r + 2 w and so on.

        A broken image, and the filling that gives every process equally many rows (a sharded network needs
        them all to take part), is a black image without an index. Leave such rows out of every count: then
        each image counts once, however ragged the last batch and however many the processes.

        Raises:
            UserError: what a source raises that cannot go on
        """
        world = current_world()
        rows = -(-len(source) // world.size)
        channels = len(self.mean)
        black = torch.zeros(channels * (1 + self.gaps), *self.image_size, dtype=torch.uint8)
        transform = resize_center_crop(self.image_size, self.crop_pct, channels=channels)
        mine = range(world.rank, world.rank + rows * world.size, world.size)
        dataset = _EvaluationDataset(source, transform, black)
        keys = (list(mine[i : i + self.batch_size]) for i in range(0, rows, self.batch_size))
        for batch in Loader(dataset, keys, self.workers, self.device):
            images = to_float(batch.to(self.device).data, self.mean, self.std)
            yield EvaluationBatch(images, batch.source_index, batch.broken)


def micro_batch_size(batch_size: int, accumulation_steps: int) -> int:
    """Return how many images one process of a training holds at a time: as many as it may measure at a time.

    Args:
        batch_size: images of one optimiser step, over all processes and accumulation steps
        accumulation_steps: micro-batches of a step and process

    Returns:
        at least 1
    """
    return max(1, batch_size // (current_world().size * accumulation_steps))


class _EvaluationDataset(Dataset[Item]):
    """Transformed images by index; a black one for what is broken or beyond the last."""

    def __init__(self, source: ImageSource, transform: Transform, black: Tensor) -> None:
        self.source, self.transform, self.black = WatchedSource(source), transform, black

    def __getitem__(self, index: int) -> Item:
        data: Any = self.black
        if index >= len(self.source):
            return Item(data, NO_IMAGE, [])
        try:
            image = self.source.read(index)
        except BrokenImage as error:
            return Item(data, NO_IMAGE, [(index, error.reason)])
        data = self.transform(image)
        if len(data) < len(self.black):  # of a source that has no gaps, and does not say so
            data = torch.cat([data, torch.full_like(data, THERE)])
        return Item(data, index, [])
