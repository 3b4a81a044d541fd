"""The figures of training steps (loss, gradient norm, metrics), read long after they were asked for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fcmae.engine.distributed import mean_over_processes
from fcmae.engine.errors import UserError

FILES_IN_A_MESSAGE = 8


@dataclass
class StepFigures:
    """One optimiser step and its figures.

    Args:
        step: number of the step, from 1
        lr: learning rate it was taken with
        files: files of its batch
        values: `loss`, `grad_norm` and the task's metrics by name, () tensors still on the device
    """

    step: int
    lr: float
    files: list[str]
    values: dict[str, Tensor]


def read_values(steps: list[StepFigures]) -> list[dict[str, float]]:
    """The values of some steps as numbers, means over all processes: this waits for the device."""
    names = list(steps[0].values)
    table = torch.stack([torch.stack([each.values[name] for name in names]) for each in steps])
    return [dict(zip(names, row, strict=True)) for row in mean_over_processes(table).tolist()]


def finite_mean(values: list[float]) -> float:
    """Mean of the values that are finite: a step that loss scaling skips has no gradient norm."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def not_finite_error(figures: StepFigures, culprit: str, log_file: object) -> UserError:
    """The error of a step whose loss or gradient norm, the culprit, is not finite."""
    shown = ", ".join(figures.files[:FILES_IN_A_MESSAGE])
    more = len(figures.files) - FILES_IN_A_MESSAGE
    if more > 0:
        shown += f" and {more} more, listed in {log_file}"
    return UserError(
        f"the {culprit} of step {figures.step} is not finite (learning rate {figures.lr:.3g}). Images of its "
        f"batch: {shown}. The checkpoints before it are intact: look at these images, lower optim.base_lr, "
        f"set optim.clip_grad, or use bf16 or float32 where loop.precision is fp16"
    )
