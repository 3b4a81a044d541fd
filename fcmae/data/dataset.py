"""From an image source to a stream of batches that depends on the seed and the sampler's keys alone.

Shapes: B batch, C channels, H W pixels.
"""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, default_collate

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.data.decode import BrokenImage
from fcmae.data.images import ImageSource
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
        self.source, self.transform, self.seed = source, transform, seed

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


class Loader:
    """A DataLoader of batches whose workers' UserErrors arrive without a traceback.

    Args:
        loader: what reads
    """

    def __init__(self, loader: DataLoader[Item]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self.loader
        except UserError as error:  # a worker's comes with its traceback as the message
            error.__traceback__ = None  # it would keep the workers alive
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def make_loader(
    dataset: ImageDataset, sampler: Iterable[list[Key]], workers: int, device: torch.device
) -> Loader:
    """Read batches ahead in worker processes, one torch thread each.

    Args:
        dataset: gives the images
        sampler: says which, a list of keys for each batch
        workers: number of processes; 0 reads in this one
        device: on cuda, batches arrive in pinned memory
    """
    return Loader(
        DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_signals_to_parent,
            generator=torch.Generator(),  # else it would draw from the global one
        )
    )


def _leave_signals_to_parent(worker: int) -> None:
    """Let the training process say when reading ends; Ctrl-C and a cluster's SIGTERM reach workers, too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait for a SIGTERM that the training process sends, as it does to workers that outlive their loader."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def choose_workers(device: torch.device, wanted: int | None = None) -> int:
    """Choose the number of workers of each training process.

    On a GPU up to 8 of the cores; on the CPU, where training needs the cores itself, one in four. The cores
    are divided among the run's processes on this machine; SLURM's cores per task are of one process already.

    Args:
        device: what trains
        wanted: as many, whatever the device; by default they are chosen
    """
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores //= current_world().local_size
    cores = int(os.environ.get("SLURM_CPUS_PER_TASK") or cores)
    return min(8, cores) if device.type == "cuda" else min(8, cores // 4)
