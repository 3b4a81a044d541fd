"""How far a run is: the losses it counts, and which epoch it calls the best."""

import math
from typing import Any

import pytest

from fcmae.engine.progress import Progress


def test_the_first_loss_is_that_of_the_first_step_alone() -> None:
    progress = Progress()
    for step, losses in ((2, [4.0, 2.0]), (2, []), (3, [1.0])):
        progress.step = step
        progress.add_losses(losses)
    assert progress.summary(None).first_loss == 4.0
    assert progress.summary(None).last_loss == pytest.approx(7 / 3)
    progress.finish_epoch(1.5)
    assert (progress.finished_epochs, progress.epoch_loss_sum) == (1, 0.0)
    assert progress.summary(None).last_loss == 1.5


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [("max", [1.0, 0.5, 1.0, 2.0], [1, 4]), ("min", [1.0, 0.5, 0.5, 2.0], [1, 2])],
)
def test_the_first_of_equal_epochs_stays_the_best(
    direction: Any, values: list[float], best: list[int]
) -> None:
    progress, chosen = Progress(), []
    for value in values:
        progress.finish_epoch(0.0)
        if progress.note_best({"score": value}, ("score", direction)):
            chosen.append(progress.finished_epochs)
    assert chosen == best
    assert progress.best_epoch == best[-1]


@pytest.mark.parametrize("metrics", [{}, {"score": math.nan}, {"score": math.inf}])
def test_an_epoch_without_a_finite_metric_is_never_the_best(metrics: dict[str, float]) -> None:
    progress = Progress(finished_epochs=1)
    assert not progress.note_best(metrics, ("score", "max"))
    assert not progress.note_best({"score": 1.0}, None)
    assert progress.best is None
