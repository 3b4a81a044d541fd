"""Random numbers that depend on a key of integers and on nothing that ran before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
