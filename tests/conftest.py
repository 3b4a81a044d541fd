"""What tests of several rooms share."""

import os
from typing import Protocol, TypeVar

import pytest
import torch
from torch import nn

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's kernels run on the CPU; read once, at Triton's import

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start: the same bits take the same threads
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests on a cluster to one process: they fill it, and count on who is preempted."""
    for item in items:
        if item.get_closest_marker("slurm"):
            item.add_marker(pytest.mark.xdist_group("slurm"))


M = TypeVar("M", bound=nn.Module)


class Randomize(Protocol):
    """A function that draws all parameters of a module anew, so that none hides at its initial 0 or 1."""

    def __call__(self, module: M) -> M: ...


@pytest.fixture
def randomize() -> Randomize:
    def randomized(module: M) -> M:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(std=0.2, generator=generator)
        return module

    return randomized
