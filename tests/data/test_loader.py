"""Worker processes: they end when told, and where one dies the batches stay the same but for its image."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import parent_process
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fcmae.core.errors import UserError
from fcmae.core.world import World
from fcmae.data.dataset import Batch, ImageDataset
from fcmae.data.decode import BrokenImage
from fcmae.data.evaluation import EvaluationReader
from fcmae.data.images import ArraySource
from fcmae.data.loader import Loader, choose_workers
from fcmae.data.sampler import StepSampler

CPU = torch.device("cpu")
IMAGES = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(-1, 1, 8, 8)


class Deadly(ArraySource):
    """Images of which some end the process that reads them, as a decoder may; in this process they raise."""

    def __init__(self, deadly: set[int]) -> None:
        super().__init__(IMAGES)
        self.deadly = deadly

    def read(self, i: int) -> Tensor:
        if i in self.deadly and parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        if i in self.deadly:
            raise BrokenImage(Path(self.name(i)), "ended the process that read it")
        return super().read(i)


class PartlyBroken(ArraySource):
    """Images of which each third is broken."""

    def __init__(self) -> None:
        super().__init__(IMAGES)

    def read(self, i: int) -> Tensor:
        if i % 3 == 0:
            raise BrokenImage(Path(self.name(i)), "torn")
        return super().read(i)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch look for dead workers more often than every five seconds."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.3,))


def noisy(image: Tensor) -> Tensor:
    """A transform that draws."""
    return image + torch.rand(image.shape)


def read_all(source: ArraySource, workers: int) -> list[Batch]:
    dataset = ImageDataset(source, noisy, seed=1)
    return list(Loader(dataset, StepSampler(len(source), 4, 1, total_steps=10), workers, CPU))


@pytest.mark.parametrize("deadly", [{7}, {0, 3, 19}])
def test_a_file_that_ends_workers_costs_itself_alone(
    deadly: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    expected, found = read_all(Deadly(deadly), 0), read_all(Deadly(deadly), 2)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.data, other.data)
        assert torch.equal(one.source_index, other.source_index)
        assert one.broken == other.broken
    assert {i for batch in found for i, _ in batch.broken} == deadly
    for i in deadly:
        assert f"while it held image {i};" in caplog.text
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_file_that_ends_workers_is_measured_as_broken(caplog: pytest.LogCaptureFixture) -> None:
    reader = EvaluationReader((8, 8), 1.0, (0.0,), (1.0,), 4, 2, CPU)
    seen = list(reader.read_once(Deadly({5, 6})))
    assert [i for batch in seen for i in batch.keep(batch.source_index).tolist()] == [
        i for i in range(20) if i not in (5, 6)
    ]
    assert [i for batch in seen for i, _ in batch.broken] == [5, 6]


def test_workers_that_die_without_end_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcmae.data.loader.MAX_DEATHS", 2)
    with pytest.raises(UserError, match=r"the last while it held image \d+ .*--images\.workers"):
        read_all(Deadly(set(range(20))), 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_images_end_the_run(workers: int) -> None:
    dataset = ImageDataset(PartlyBroken(), noisy, seed=1)  # each third is broken
    keys = [[(0, i % 20) for i in range(start, start + 10)] for start in range(0, 400, 10)]
    with pytest.raises(UserError) as caught:
        list(Loader(dataset, keys, workers, CPU, max_broken=0.2))
    assert str(caught.value) == (
        "70 of 200 images could not be read, more than the fraction of 0.2 that --images.max-broken allows; "
        "the last is image 18: torn"
    ), str(caught.value)
    assert len(list(Loader(dataset, keys, workers, CPU, max_broken=0.5))) == 40
    assert len(list(Loader(dataset, keys[:10], workers, CPU, max_broken=0.0))) == 10  # too few to judge


def test_an_error_of_ones_own_is_no_death() -> None:
    class Failing(ArraySource):
        def read(self, i: int) -> Tensor:
            raise RuntimeError("a programmer's mistake")

    with pytest.raises(RuntimeError, match="a programmer's mistake"):
        read_all(Failing(IMAGES), 1)


SIGNALLED = """
import os, sys, torch
from multiprocessing import active_children
from fcmae.data.dataset import ImageDataset
from fcmae.data.loader import Loader
from fcmae.data.images import ArraySource
from fcmae.data.sampler import StepSampler
dataset = ImageDataset(ArraySource(torch.zeros(4, 1, 2, 2, dtype=torch.uint8)), lambda image: image, 0)
batches = iter(Loader(dataset, StepSampler(4, 2, 0, total_steps=10**6), 1, torch.device("cpu")))
for step in range(300):
    next(batches)
    if step == 20:
        (worker,) = active_children()
        print(worker.pid, flush=True)
        sys.stdin.readline()
worker.terminate()
worker.join(30)
print(worker.exitcode, flush=True)
os._exit(0)
"""


def test_workers_end_when_their_parent_says_and_not_by_signals_of_others() -> None:
    parent = subprocess.Popen([sys.executable, "-c", SIGNALLED], stdin=-1, stdout=-1, stderr=-1, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker, number)
    time.sleep(0.1)
    output, errors = parent.communicate("go on\n", timeout=60)
    assert output == "0\n", errors


def test_workers_are_chosen_by_device_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert choose_workers(torch.device("cuda")) == 8
    assert choose_workers(CPU) == 4
    monkeypatch.setattr("fcmae.data.loader.current_world", lambda: World(size=4, local_size=4))
    assert choose_workers(torch.device("cuda")) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)), raising=False)
    assert choose_workers(CPU) == 0
