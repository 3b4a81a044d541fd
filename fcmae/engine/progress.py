"""How far a run is, the best of its epochs, and what came of it."""

import math
from dataclasses import dataclass
from typing import Literal

Criterion = tuple[str, Literal["min", "max"]]
"""The metric that chooses the best epoch, and whether low or high is good."""


@dataclass(frozen=True)
class Summary:
    """What came of a run.

    Args:
        steps: optimiser steps done
        first_loss: loss of the very first step, before anything was learned
        last_loss: mean loss of the last epoch, or of the steps so far where the first epoch is unfinished
        seconds: time spent, over all the times the run was resumed
        interrupted: number of the signal that stopped the run early, if it is not complete
    """

    steps: int
    first_loss: float
    last_loss: float
    seconds: float
    interrupted: int | None


@dataclass
class Progress:
    """How far a run is. A checkpoint holds it beside the state of task, optimiser and loss scaler."""

    step: int = 0
    finished_epochs: int = 0
    epoch_loss_sum: float = 0.0
    first_loss: float = math.nan
    last_epoch_loss: float | None = None
    best: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0

    def add_losses(self, losses: list[float]) -> None:
        """Count the losses of the newest steps, oldest first."""
        if losses and self.step == len(losses):
            self.first_loss = losses[0]
        for loss in losses:
            self.epoch_loss_sum += loss

    def finish_epoch(self, loss: float) -> None:
        """Begin the next epoch after one with this mean loss."""
        self.finished_epochs += 1
        self.last_epoch_loss, self.epoch_loss_sum = loss, 0.0

    @property
    def is_best(self) -> bool:
        """Whether the epoch just finished is the best so far; never before the first one is finished."""
        return 0 < self.best_epoch == self.finished_epochs

    def note_best(self, metrics: dict[str, float], criterion: Criterion | None) -> bool:
        """Return whether the epoch just finished is the best so far by its metrics, and remember it if so."""
        if criterion is None:
            return False
        name, direction = criterion
        value = metrics.get(name)
        if value is None or not math.isfinite(value):
            return False
        if self.best is not None and (value >= self.best if direction == "min" else value <= self.best):
            return False
        self.best, self.best_epoch = value, self.finished_epochs
        return True

    def summary(self, interrupted: int | None) -> Summary:
        """Return what came of the run so far."""
        last_loss = self.last_epoch_loss
        if last_loss is None:
            last_loss = self.epoch_loss_sum / self.step if self.step else math.nan
        return Summary(self.step, self.first_loss, last_loss, self.seconds, interrupted)
