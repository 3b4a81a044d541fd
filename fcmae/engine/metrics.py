"""The metrics of training steps, with loss and gradient norm: kept on the device, read and logged later."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from fcmae.core.distributed import gather_lists, mean_over_processes, raise_together
from fcmae.core.errors import UserError
from fcmae.engine.display import ProgressDisplay
from fcmae.engine.loggers import Loggers

FILES_IN_A_MESSAGE = 8


@dataclass
class StepMetrics:
    """One optimiser step and its metrics.

    Args:
        step: number of the step, from 1
        lr: learning rate it was taken with
        files: files of its batch
        values: `loss`, `grad_norm` and what the task returns by name, () tensors still on the device
    """

    step: int
    lr: float
    files: list[str]
    values: dict[str, Tensor]


class StepLog:
    """The steps of a run whose metrics are still on the device, and the log and display that get them later.

    Args:
        loggers: what keeps them
        display: what shows them to a person
        scaler: of the losses; where it is in use, a step whose gradients overflow is skipped, and no error
        batch_size: images of one optimiser step
        steps_per_epoch: optimiser steps of one epoch
    """

    def __init__(
        self,
        loggers: Loggers,
        display: ProgressDisplay,
        scaler: torch.amp.GradScaler,
        batch_size: int,
        steps_per_epoch: int,
    ) -> None:
        self.loggers, self.display, self.scaler = loggers, display, scaler
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch
        self.pending: list[StepMetrics] = []
        self.restart_clock()

    def __len__(self) -> int:
        """Return the number of steps that were not read yet."""
        return len(self.pending)

    def add(self, step: StepMetrics) -> None:
        """Keep a step's metrics, unread."""
        self.pending.append(step)

    def restart_clock(self) -> None:
        """Count images/s from now on: what came before, an evaluation or a checkpoint, was no training."""
        self.last_read = time.monotonic()

    def read(self) -> list[float]:
        """Log and show the means over the pending steps; this waits for the device.

        Returns:
            the loss of each of them, oldest first

        Raises:
            UserError: a loss or a gradient norm is not finite
        """
        if not self.pending:
            return []
        values = read_values(self.pending)
        for step, row in zip(self.pending, values, strict=True):
            self._require_finite(step, row)
        newest, now = self.pending[-1], time.monotonic()
        means = {name: finite_mean([row[name] for row in values]) for name in values[0]}
        speed = len(values) * self.batch_size / (now - self.last_read)
        epoch = newest.step / self.steps_per_epoch
        self.loggers.log(
            {"step": newest.step, "epoch": epoch, **means, "lr": newest.lr, "images_per_s": speed}
        )
        self.display.update(newest.step, means["loss"], speed)
        self.pending, self.last_read = [], now
        return [row["loss"] for row in values]

    def _require_finite(self, step: StepMetrics, values: dict[str, float]) -> None:
        """Log and raise what is not finite in a step."""
        skipped = self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0  # fp16 tries a smaller scale
        for name in ("loss", "grad_norm"):
            if math.isfinite(values[name]) or (name == "grad_norm" and skipped):
                continue
            step.files = gather_lists(step.files)
            self.loggers.log({"step": step.step, "lr": step.lr, "not_finite": name, "files": step.files})
            raise_together(not_finite_error(step, name, self.loggers.run.log_file))


def read_values(steps: list[StepMetrics]) -> list[dict[str, float]]:
    """Return the values of some steps as numbers, means over all processes: this waits for the device."""
    names = list(steps[0].values)
    table = torch.stack([torch.stack([each.values[name] for name in names]) for each in steps])
    return [dict(zip(names, row, strict=True)) for row in mean_over_processes(table).tolist()]


def finite_mean(values: list[float]) -> float:
    """Return the mean of the values that are finite: a step that loss scaling skips has no gradient norm."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def not_finite_error(step: StepMetrics, culprit: str, log_file: object) -> UserError:
    """Return the error of a step whose loss or gradient norm, the culprit, is not finite."""
    shown = ", ".join(step.files[:FILES_IN_A_MESSAGE])
    more = len(step.files) - FILES_IN_A_MESSAGE
    if more > 0:
        shown += f" and {more} more, listed in {log_file}"
    return UserError(
        f"the {culprit} of step {step.step} is not finite (learning rate {step.lr:.3g}). Images of its "
        f"batch: {shown}. The checkpoints before it are intact: look at these images, lower optim.base_lr, "
        f"set optim.clip_grad, or use bf16 or float32 where loop.precision is fp16"
    )
