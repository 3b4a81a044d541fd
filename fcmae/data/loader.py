"""Batches read ahead in worker processes, which are replaced where a file ends one."""

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, get_worker_info

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.data.config import MOST_WORKERS
from fcmae.data.dataset import Batch, Item, collate
from fcmae.data.images import NOTHING, WatchedSource

logger = logging.getLogger(__name__)
JUDGED = 200  # images after which it is judged whether too many are broken
MAX_DEATHS = 20  # of workers; more mean that something else than a file is wrong


class WatchedDataset(Protocol):
    """Items by key, read from a watched source."""

    source: WatchedSource

    def __getitem__(self, key: Any) -> Item: ...


class Loader:
    """Batches in the order of their keys; a worker that dies is replaced, and its image counts as broken.

    A worker's UserError arrives without a traceback.

    Args:
        dataset: gives the items
        keys: says which, a list for each batch
        workers: number of processes, of one torch thread each; 0 reads in this one
        device: on cuda, batches arrive in pinned memory
        max_broken: fraction of images that may be broken; more than that, of 200 or more, is a UserError
    """

    def __init__(
        self,
        dataset: WatchedDataset,
        keys: Iterable[list[Any]],
        workers: int,
        device: torch.device,
        max_broken: float = 1.0,
    ) -> None:
        self.dataset, self.keys, self.workers, self.device = dataset, keys, workers, device
        self.max_broken = max_broken

    def __iter__(self) -> Iterator[Batch]:
        waiting: deque[list[Any]] = deque()  # keys of batches that are being read
        keys, deaths, read, broken = iter(self.keys), 0, 0, 0
        while True:
            try:
                for batch in self._start(_hand_out(waiting, keys)):
                    waiting.popleft()
                    yield batch
                    read, broken = read + len(batch.source_index), broken + len(batch.broken)
                    if batch.broken and read >= JUDGED:
                        self._check_broken(batch.broken[-1], broken, read)
                return
            except UserError as error:  # a worker's comes with its traceback as the message
                error.__traceback__ = None  # it would keep the workers alive
                kind = type(error)
                raise kind(str(error).rpartition(f"{kind.__name__}: ")[2].strip()) from None
            except (RuntimeError, OSError, EOFError) as error:  # the last two where a batch came half the way
                dead = self._find_deaths(0.0 if isinstance(error, RuntimeError) else 2.0)
                if not dead:
                    raise
                deaths += len(dead)
                self._tell(dead, deaths, error)

    def _check_broken(self, last: tuple[int, str], broken: int, asked: int) -> None:
        """Refuse to go on where more images are broken than may be; the last one is named."""
        if broken > self.max_broken * asked:
            name = self.dataset.source.name(last[0])
            raise UserError(
                f"{broken} of {asked} images could not be read, more than the fraction of "
                f"{self.max_broken:g} that --images.max-broken allows; the last is {name}: {last[1]}"
            )

    def _start(self, keys: Iterator[list[Any]]) -> Iterator[Batch]:
        """Start workers on these batches."""
        self.dataset.source.watch(self.workers)
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        batches = iter(
            DataLoader(
                self.dataset,  # type: ignore[arg-type]
                batch_sampler=keys,
                num_workers=self.workers,
                collate_fn=collate,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_begin,
                generator=torch.Generator(),  # else it would draw from the global one
            )
        )
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(
                signal.SIGCHLD, handler
            )  # torch's raises wherever the training is when a worker dies
        return batches

    def _find_deaths(self, seconds: float) -> list[int]:
        """Find what workers held that have died, or die within a time, see `WatchedSource.find_deaths`."""
        deadline = time.monotonic() + seconds
        while self.workers:
            dead = self.dataset.source.find_deaths()
            if dead or time.monotonic() >= deadline:
                return dead
            time.sleep(0.01)
        return []

    def _tell(self, dead: list[int], deaths: int, error: Exception) -> None:
        """Warn of images that ended workers; raise UserError where there are too many for it to be files."""
        for image in dead:
            name = self.dataset.source.name(image) if image != NOTHING else "nothing"
            if deaths > MAX_DEATHS:
                raise UserError(
                    f"{deaths} processes that read images have ended, the last while it held {name} "
                    f"({error}): is there memory enough? Fewer of them (--images.workers) need less"
                ) from None
            logger.error("A process that read images has ended while it held %s; another goes on", name)


def _hand_out(waiting: deque[list[Any]], keys: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """Yield the keys of batches that were being read, then new ones, which are noted as waiting."""
    yield from tuple(waiting)
    for key in keys:
        waiting.append(key)
        yield key


def _begin(worker: int) -> None:
    """Prepare a worker process."""
    info: Any = get_worker_info()
    info.dataset.source.enter(worker)
    _leave_signals_to_parent()


def _leave_signals_to_parent() -> None:
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
    return min(MOST_WORKERS, cores) if device.type == "cuda" else min(MOST_WORKERS, cores // 4)
