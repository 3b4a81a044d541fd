"""Progress that a person can follow: a bar on a terminal, a line now and then elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

SECONDS_BETWEEN_LINES = 10.0


class ProgressDisplay:
    """How far a run is, its loss, its speed and the time that is left.

    Args:
        total_steps: optimiser steps of the whole run
        steps_per_epoch: optimiser steps of one epoch
        console: where to show it; standard output by default
    """

    def __init__(self, total_steps: int, steps_per_epoch: int, console: Console | None = None) -> None:
        self.total_steps = total_steps
        self.steps_per_epoch = steps_per_epoch
        self.console = console or Console(soft_wrap=True, highlight=False)
        self._last_line = -float("inf")
        self._bar: Progress | None = None
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=self.console,
                expand=True,
            )
            self._row = self._bar.add_task("", total=total_steps, metrics="")
        self.start_at(0)

    def start_at(self, step: int) -> None:
        """Count from a step on: those before it are not this process's, and tell nothing of its speed."""
        self.start_step, self._started = step, time.monotonic()
        if self._bar is not None:
            self._bar.update(self._row, completed=step)

    def __enter__(self) -> "ProgressDisplay":
        if self.start_step:
            self.console.print(f"going on after step {self.start_step} of {self.total_steps}")
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, images_per_s: float) -> None:
        """Show the state after `step` optimiser steps; elsewhere than on a terminal, not too often."""
        epochs = self.total_steps // self.steps_per_epoch
        epoch = f"epoch {min((step - 1) // self.steps_per_epoch + 1, epochs)}/{epochs}"
        left = f"{format_duration(self._seconds_left(step))} left"
        metrics = f"loss {loss:.4f}  {images_per_s:.0f} images/s  {left}"
        if self._bar is not None:
            self._bar.update(self._row, description=epoch, completed=step, metrics=metrics)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step == self.total_steps:
            self._last_line = now
            self.console.print(f"{epoch}  step {step}/{self.total_steps}  {metrics}")

    def _seconds_left(self, step: int) -> float:
        """Return the time that the steps after `step` take at the speed so far."""
        done = max(step - self.start_step, 1)
        return (time.monotonic() - self._started) / done * (self.total_steps - step)


def format_duration(seconds: float) -> str:
    """Return seconds as `0:42`, `12:05` or `3:07:00`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
