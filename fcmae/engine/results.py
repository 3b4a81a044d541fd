"""A training that has run, as an object: its folder, its settings, and its metrics as arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from fcmae.engine.pictures import plot_curves
from fcmae.engine.progress import Summary
from fcmae.engine.run_folder import RunFolder


class Run:
    """A training's folder.

    Args:
        path: the folder
        summary: what came of the call that trained
    """

    def __init__(self, path: Path | str, summary: Summary | None = None) -> None:
        self.folder, self.summary = RunFolder(path), summary

    def __repr__(self) -> str:
        """Return the path."""
        return f"{type(self).__name__}({str(self.path)!r})"

    def __fspath__(self) -> str:
        """Return the path, so that whatever takes a path takes a run."""
        return str(self.path)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, nested by group."""
        return dict(yaml.safe_load(self.folder.config.read_text(encoding="utf-8")))

    @property
    def steps(self) -> dict[str, np.ndarray]:
        """What was logged every few steps: `step`, `epoch`, `loss`, `lr` and more, float64."""
        return columns([record for record in self.folder.records() if "loss" in record])

    @property
    def epochs(self) -> dict[str, np.ndarray]:
        """What was measured after each epoch: `epoch`, `epoch_loss` and metrics, float64, NaN for none."""
        return columns([record for record in self.folder.records() if "epoch_loss" in record])

    def curves(self) -> Figure:
        """Draw loss, learning rate, speed and metrics over the epochs."""
        return plot_curves(self.folder.records())


def columns(records: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the numbers of records by name, float64, with NaN where a record has none."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: np.array([_number(record.get(name)) for record in records]) for name in names}


def _number(value: Any) -> float:
    """Return a number, NaN for what is none."""
    return float(value) if isinstance(value, int | float) else np.nan
