"""Seeded blocks: the same numbers for the same key, and no trace outside."""

import random

import numpy as np
import pytest
import torch

from fcmae.data.seeding import seeded


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_numbers_depend_on_the_key_alone() -> None:
    with seeded(1, 2, 3):
        first = draw()
    draw()
    with seeded(1, 2, 3):
        assert draw() == first
    for key in ((1, 2, 4), (1, 3, 3), (2, 2, 3), (3, 2, 1)):
        with seeded(*key):
            assert all(ours != other for ours, other in zip(draw(), first, strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_the_generators_go_on_as_if_nothing_had_been_drawn(fails: bool) -> None:
    with seeded(5):
        expected = draw()
    with seeded(5):
        try:
            with seeded(6):
                draw()
                if fails:
                    raise RuntimeError
        except RuntimeError:
            pass
        assert draw() == expected
