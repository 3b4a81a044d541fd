"""The metrics of training steps, with loss and gradient norm: kept on the device, read and logged later."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae.core.distributed import (
    current_world,
    gather_lists,
    max_over_processes,
    mean_over_processes,
    raise_together,
)
from fcmae.core.errors import UserError
from fcmae.engine.display import ProgressDisplay
from fcmae.engine.loggers import Loggers
from fcmae.engine.run_folder import RunFolder

logger = logging.getLogger(__name__)
FILES_IN_A_MESSAGE = 8
SECONDS_JUDGED = 30.0  # over which it is judged whether steps wait for data
MUCH_WAITING = 0.2  # fraction of the time
WAITS_FOR_DATA = (
    "steps wait for images %.0f%% of the time: read with more processes (--images.workers), make more of "
    "each image that is read (--images.repeats 2), or store smaller ones (fcmae data pack)"
)


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


class DataClock:
    """How long steps wait for their batches: on a GPU only while it has nothing else to do.

    Args:
        device: what trains
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waits: list[tuple[Any, Any]] = []  # times, or on a GPU its events, of beginning and end

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a `with` block."""
        begin = self._now()
        yield
        self.waits.append((begin, self._now()))

    def _now(self) -> Any:
        """Return the time, or an event that a GPU reaches once it has done all that it was given before."""
        if self.device.type != "cuda":
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def read(self) -> float:
        """Return the seconds since the last time; the device has reached the end."""
        waits, self.waits = self.waits, []
        if self.device.type != "cuda":
            return float(sum(end - begin for begin, end in waits))
        return float(sum(begin.elapsed_time(end) for begin, end in waits)) / 1e3


class StepLog:
    """The steps of a run whose metrics are still on the device, and the log and display that get them later.

    Args:
        loggers: what keeps them
        display: what shows them to a person
        scaler: of the losses; where it is in use, a step whose gradients overflow is skipped, and no error
        batch_size: images of one optimiser step
        steps_per_epoch: optimiser steps of one epoch
        device: what trains
        keep: keeps the step of a number, from 1, that is not finite; returns the checkpoint before it, if any
    """

    def __init__(
        self,
        loggers: Loggers,
        display: ProgressDisplay,
        scaler: torch.amp.GradScaler,
        batch_size: int,
        steps_per_epoch: int,
        device: torch.device,
        keep: Callable[[int], Path | None],
    ) -> None:
        self.loggers, self.display, self.scaler = loggers, display, scaler
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch
        self.keep = keep
        self.pending: list[StepMetrics] = []
        self.data_clock = DataClock(device)
        self.judged: tuple[float, float] | None = None  # seconds of waiting and of all, yet to be judged
        self.warned = False
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

    def _judge_waiting(self, waited: float, seconds: float) -> None:
        """Warn once where much of half a minute, not of the first steps, was spent on waiting for data."""
        if self.judged is None:  # the processes that read have just been started
            self.judged = 0.0, 0.0
            return
        waited, seconds = waited + self.judged[0], seconds + self.judged[1]
        self.judged = waited, seconds
        if seconds < SECONDS_JUDGED:
            return
        self.judged = 0.0, 0.0
        if waited > MUCH_WAITING * seconds and not self.warned and current_world().is_rank_zero:
            self.warned = True
            logger.warning(WAITS_FOR_DATA, 100 * waited / seconds)

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
        seconds = now - self.last_read
        waited = max_over_processes(round(1e3 * self.data_clock.read()))[0] / 1e3
        self._judge_waiting(waited, seconds)
        means = {name: finite_mean([row[name] for row in values]) for name in values[0]}
        speed = len(values) * self.batch_size / seconds
        epoch = newest.step / self.steps_per_epoch
        record = {"step": newest.step, "epoch": epoch, **means, "lr": newest.lr, "images_per_s": speed}
        self.loggers.log({**record, "data_wait": min(1.0, waited / seconds)})
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
            raise_together(not_finite_error(step, name, self.loggers.run, self.keep(step.step)))


def read_values(steps: list[StepMetrics]) -> list[dict[str, float]]:
    """Return the values of some steps as numbers, means over all processes: this waits for the device."""
    names = list(steps[0].values)
    table = torch.stack([torch.stack([each.values[name] for name in names]) for each in steps])
    return [dict(zip(names, row, strict=True)) for row in mean_over_processes(table).tolist()]


def finite_mean(values: list[float]) -> float:
    """Return the mean of the values that are finite: a step that loss scaling skips has no gradient norm."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def not_finite_error(step: StepMetrics, culprit: str, run: RunFolder, before: Path | None) -> UserError:
    """Return the error of a step whose loss or gradient norm, the culprit, is not finite.

    Args:
        step: the step
        culprit: loss or grad_norm
        run: the folder of the run
        before: the checkpoint before the step, if one was saved
    """
    shown = ", ".join(step.files[:FILES_IN_A_MESSAGE])
    more = len(step.files) - FILES_IN_A_MESSAGE
    if more > 0:
        shown += f" and {more} more, listed in {run.log_file}"
    saved = f"{before.name}, saved before it, is intact" if before else "No checkpoint was saved before it"
    return UserError(
        f"the {culprit} of step {step.step} is not finite (learning rate {step.lr:.3g}). Images of its "
        f"batch: {shown}. {saved}. fcmae replay {run.path} shows where it overflows. --change goes on "
        "with other settings: a lower optim.base_lr, optim.clip_grad, or bf16 or float32 instead of fp16"
    )
