"""What the loop needs to know about a task: a task owns the loss, the loop owns time."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from fcmae.models.kernels.selftest import Example


class Task(ABC):
    """A model, its batches and its loss.

    A batch is whatever `batches` yields; only the task looks inside. The loop moves the model to the device,
    the task moves its batches.

    Attributes:
        model: what is trained
        averaged: a moving average of the model's weights, if the task follows one, in a network like it
        steps_per_epoch: optimiser steps of one epoch
    """

    model: nn.Module
    averaged: nn.Module | None = None
    steps_per_epoch: int

    def examples(self) -> list[Example]:
        """Return modules and arguments without data whose forward passes call all kernels that a run needs.

        The kernels of `fcmae.models.kernels` are tested on the device before a run trusts them.
        """
        return []

    @abstractmethod
    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return parameter groups for AdamW; a group's `lr_scale`, if it has one, multiplies the schedule."""

    @abstractmethod
    def batches(self, start_step: int, total_steps: int) -> Iterable[Any]:
        """Return the micro-batches of steps start_step .. total_steps - 1, `accumulation_steps` a step.

        Nothing is read before the first is taken. Which images meet in a step depends on its number alone.
        """

    @abstractmethod
    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a micro-batch, () and a mean over its samples, and further () metrics to log."""

    @abstractmethod
    def describe(self, batch: Any) -> list[str]:
        """Return the files of a micro-batch, for error messages."""

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Measure at the end of an epoch (from 1), without gradients and under the run's autocast.

        Every process of the run calls it and returns the same metrics.
        """
        return {}

    def data(self) -> dict[str, int | str]:
        """Return what tells the data apart from others, by name: a run goes on with these alone."""
        return {}

    def draws(self, epoch: int) -> bool:
        """Return whether to draw after this epoch (from 1), the same in every process."""
        return False

    def draw(self) -> None:  # noqa: B027  most tasks have nothing to show
        """Write pictures for people, in rank zero alone, with the whole model and after the checkpoint."""

    def optimizer_stepped(self, step: int) -> None:  # noqa: B027  most tasks have nothing to follow
        """Follow optimiser step number `step` (from 1): the place for a moving average of the weights."""

    def saved(self, state: dict[str, Any], best: bool) -> None:  # noqa: B027  most tasks have nothing to add
        """Follow a checkpoint, in rank zero alone: the place to write what others use a run for.

        Args:
            state: what the checkpoint holds
            best: whether its weights are the best so far
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold of the task beside `model`, `averaged` and the optimiser."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  most tasks have nothing more
        """Restore what `state_dict` gave; the checkpoint that holds it has other keys too."""
