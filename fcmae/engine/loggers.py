"""Where the records of a run go: JSON lines in its folder, TensorBoard, and what is registered beside them.

A record is a dict of plain values with `step`, the optimiser steps done. That of a few steps holds means over
them (`loss`, `grad_norm`, the task's metrics), `epoch` with its fraction, `lr`, `images_per_s`, and
`data_wait`, the fraction of the time that steps waited for images; that of a whole epoch `epoch`,
`epoch_loss` and what the task measured; of a failure `lr`, `not_finite` and `files`.
"""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.core.files import named, write_atomically
from fcmae.engine.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Logger(ABC):
    """One place that the records of a run go to. Only rank zero has one.

    A run may be killed at any instant, so nothing is ever closed: a record is safe when `log` returns.

    Args:
        run: the folder of the run, acquired
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @abstractmethod
    def log(self, record: dict[str, Any]) -> None:
        """Keep a record. Numbers in it may be NaN or infinite."""

    def rewind(self, step: int, finished_epochs: int) -> None:  # noqa: B027  not every place can forget
        """Drop what a killed process logged beyond the checkpoint that the run goes on from.

        Called once, before the first record.

        Args:
            step: optimiser steps done at that checkpoint
            finished_epochs: epochs whose record was logged before it
        """


class JsonLines(Logger):
    """A line of strict JSON for each record, in log.jsonl: what resuming trims and curves are drawn from.

    Each has its `time`, in seconds since 1970. Numbers that are not finite, which JSON has no words for,
    become null.
    """

    def log(self, record: dict[str, Any]) -> None:
        """Append a record."""
        with named(self.run.log_file), self.run.log_file.open("a", encoding="utf-8") as file:
            file.write(json_line({**record, "time": round(time.time())}))

    def rewind(self, step: int, finished_epochs: int) -> None:
        """Write the file anew without the records beyond a checkpoint."""
        if not self.run.log_file.exists():
            return
        kept = [
            record
            for record in self.run.records()
            if record["step"] <= step and ("epoch_loss" not in record or record["epoch"] <= finished_epochs)
        ]
        with write_atomically(self.run.log_file) as file:
            file.writelines(json_line(record).encode() for record in kept)


class TensorBoard(Logger):
    """A scalar for each number of a record, in the events that TensorBoard shows, with settings and pictures.

    Tags are grouped: `steps/` for means over a few steps, `epochs/` for what was measured after an epoch.
    """

    purge_step = 0
    drawn_at = 0.0

    def log(self, record: dict[str, Any]) -> None:
        """Add the numbers of a record at its step, and the reconstructions that were drawn since the last."""
        group = "epochs" if "epoch_loss" in record else "steps"
        with named(self.run.tensorboard):
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._writer.add_scalar(f"{group}/{name}", value, record["step"])
            self._add_picture(record["step"])
            self._writer.flush()

    def _add_picture(self, step: int) -> None:
        """Add the reconstructions, where they are new."""
        picture = self.run.reconstructions
        if picture.exists() and picture.stat().st_mtime != self.drawn_at:
            self.drawn_at = picture.stat().st_mtime
            with suppress(OSError), Image.open(picture) as opened:  # a damaged picture ends no run
                pixels = np.array(opened.convert("RGB"))
                self._writer.add_image("reconstructions", pixels, step, dataformats="HWC")

    def rewind(self, step: int, finished_epochs: int) -> None:
        """Have TensorBoard hide what lies beyond a checkpoint."""
        self.purge_step = step + 1

    @cached_property
    def _writer(self) -> "SummaryWriter":
        """The writer of events, made when the first record comes."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and a finished run logs nothing

        writer = SummaryWriter(self.run.tensorboard, purge_step=self.purge_step)
        if self.run.config.exists():
            settings = self.run.config.read_text(encoding="utf-8")
            writer.add_text("settings", "".join(f"    {line}\n" for line in settings.splitlines()))
        return writer


LOGGERS: dict[str, Callable[[RunFolder], Logger]] = {"tensorboard": TensorBoard}


def register_logger(name: str, kind: Callable[[RunFolder], Logger]) -> None:
    """Let the setting `loop.loggers` ask for a logger by name; a name that is taken is given anew.

    Args:
        name: what the setting says
        kind: the class, or what else makes a logger of the folder of a run
    """
    LOGGERS[name] = kind


def check_loggers(names: Iterable[str]) -> None:
    """Refuse a name that is not registered.

    Raises:
        UserError: the message lists the names
    """
    for name in names:
        if name not in LOGGERS:
            raise UserError(f"loop.loggers names {name!r}: choose from {', '.join(LOGGERS)}")


class Callback(Logger):
    """A function of one's own that is called with each record.

    Args:
        run: the folder of the run, acquired
        function: called with a record
    """

    def __init__(self, run: RunFolder, function: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(run)
        self.function = function

    def log(self, record: dict[str, Any]) -> None:
        """Hand a copy of a record over."""
        self.function(dict(record))


class Loggers(Logger):
    """The loggers of a run as one: JSON lines always, and those that are asked for. Empty but in rank zero.

    Args:
        run: the folder of the run, acquired
        names: keys of `LOGGERS`
        more: makers of further loggers
    """

    def __init__(
        self, run: RunFolder, names: Iterable[str], more: Iterable[Callable[[RunFolder], Logger]] = ()
    ) -> None:
        super().__init__(run)
        asked = [JsonLines, *(LOGGERS[name] for name in names), *more]
        kinds = asked if current_world().is_rank_zero else []
        self.loggers = [kind(run) for kind in kinds]

    def log(self, record: dict[str, Any]) -> None:
        """Hand a record to each."""
        for logger in self.loggers:
            logger.log(record)

    def rewind(self, step: int, finished_epochs: int) -> None:
        """Rewind each."""
        for logger in self.loggers:
            logger.rewind(step, finished_epochs)


def json_line(record: dict[str, Any]) -> str:
    """Return a record as a line of strict JSON, null for what is not finite."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(finite) + "\n"
