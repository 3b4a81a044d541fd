"""Order of the images: every image once an epoch, the same steps however the work is divided."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import pytest

from fcmae.core.errors import UserError
from fcmae.core.world import World
from fcmae.data.sampler import Key, StepSampler


def joined(parts: Iterable[list[Key]]) -> list[Key]:
    return list(chain.from_iterable(parts))


def steps(total: int = 10, accumulation_steps: int = 1, **options: Any) -> list[list[Key]]:
    """The keys of each optimiser step of one process: 12 of 50 images."""
    parts = list(StepSampler(50, 12, 7, total_steps=total, accumulation_steps=accumulation_steps, **options))
    return [joined(parts[i : i + accumulation_steps]) for i in range(0, len(parts), accumulation_steps)]


def test_an_epoch_shows_each_image_at_most_once_and_drops_what_does_not_fill_a_batch() -> None:
    for epoch in range(2):
        epochs, indices = zip(*joined(steps()[4 * epoch : 4 * epoch + 4]), strict=True)
        assert set(epochs) == {epoch}
        assert len(set(indices)) == len(indices) == 48
        assert set(indices) < set(range(50))


def test_epochs_differ_and_seeds_differ() -> None:
    orders = [[index for _, index in joined(steps()[i : i + 4])] for i in (0, 4)]
    other_seed = [index for _, index in joined(StepSampler(50, 12, 8, total_steps=4))]
    assert orders[0] != orders[1]
    assert orders[0] != other_seed


@pytest.mark.parametrize("start", [1, 4, 9, 10])
def test_a_late_start_continues_the_same_steps(start: int) -> None:
    assert steps(start_step=start) == steps()[start:]


@pytest.mark.parametrize(("world", "accumulation_steps"), [(1, 3), (2, 1), (2, 3), (4, 1), (3, 4)])
def test_processes_and_micro_batches_divide_the_images_of_each_step(
    world: int, accumulation_steps: int
) -> None:
    ranks = [steps(rank=rank, world=world, accumulation_steps=accumulation_steps) for rank in range(world)]
    for step, whole in enumerate(steps()):
        assert sorted(joined(rank[step] for rank in ranks)) == sorted(whole)
        assert {len(rank[step]) for rank in ranks} == {12 // world}


def test_the_ranks_of_a_micro_batch_are_its_contiguous_parts() -> None:
    samplers = [
        StepSampler(50, 12, 7, total_steps=1, accumulation_steps=2, rank=rank, world=3) for rank in range(3)
    ]
    first, second = zip(*samplers, strict=True)
    assert joined([*first, *second]) == steps(total=1)[0]


@pytest.mark.parametrize(
    ("batch_size", "world", "message"),
    [(51, 1, "51 does not fit 50 images"), (0, 1, "0 does not fit"), (10, 4, "choose a multiple of 4")],
)
def test_batches_that_cannot_be_made_are_refused(batch_size: int, world: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        StepSampler(50, batch_size, 0, total_steps=1, world=world)


def test_weights_draw_images_in_proportion_and_augment_each_anew() -> None:
    weights = np.array([1.0, 1.0, 2.0, 0.0])
    keys = [key for batch in StepSampler(4, 4, 5, total_steps=2000, weights=weights) for key in batch]
    fractions = np.bincount([index for _, index in keys], minlength=4) / len(keys)
    assert fractions == pytest.approx([0.25, 0.25, 0.5, 0.0], abs=0.02)
    assert len({turn for turn, _ in keys}) == len(keys)
    later = [
        key for batch in StepSampler(4, 4, 5, start_step=7, total_steps=9, weights=weights) for key in batch
    ]
    assert later == keys[28:36]


def test_weights_draw_what_numpys_choice_would() -> None:
    weights = np.random.default_rng(0).random(1000).astype(np.float32)
    [keys] = StepSampler(1000, 1000, 5, start_step=3, total_steps=4, weights=weights)
    expected = np.random.default_rng((5, 3)).choice(1000, 1000, p=weights / weights.sum())
    assert [index for _, index in keys] == expected.tolist()


@pytest.mark.parametrize("weights", [None, np.arange(1.0, 51.0)])
def test_repeats_are_samples_of_one_image_that_follow_each_other(weights: np.ndarray | None) -> None:
    options: dict[str, Any] = {"weights": weights, "repeats": 3}
    keys = joined(steps(12, **options))  # three epochs
    groups = [keys[i : i + 3] for i in range(0, len(keys), 3)]
    assert all(len({index for _, index in group}) == 1 for group in groups)
    assert len(set(keys)) == len(keys) == 12 * 12
    if weights is None:
        assert (
            len({group[0][1] for group in groups}) == len(groups) == 48
        )  # of 50 images, once in three epochs
        assert {turn for turn, _ in keys} == {0, 1, 2}
        assert {turn for turn, _ in joined(steps(24, **options)[12:])} == {3, 4, 5}
    assert steps(12, start_step=5, **options) == steps(12, **options)[5:]
    ranks = [steps(12, 2, rank=rank, world=2, **options) for rank in range(2)]
    assert [sorted(joined(rank[step] for rank in ranks)) for step in range(12)] == [
        sorted(step) for step in steps(12, **options)
    ]


def test_repeats_that_do_not_divide_a_micro_batch_are_refused() -> None:
    with pytest.raises(UserError, match=r"images.repeats is 4.* 6 samples.* multiple of 8"):
        StepSampler(50, 12, 7, total_steps=1, rank=0, world=2, repeats=4)


def test_a_training_takes_the_batches_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcmae.data.sampler.current_world", lambda: World(rank=1, size=3))
    ours = StepSampler(50, 12, 7, total_steps=9, accumulation_steps=2)
    assert list(ours) == list(StepSampler(50, 12, 7, total_steps=9, accumulation_steps=2, rank=1, world=3))
