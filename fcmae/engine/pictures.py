"""The curves of a run, and how a figure is written."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcmae.core.files import write_atomically

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"
DPI = 110


def draw_curves(records: Sequence[dict[str, Any]], path: Path, score: str = "loss") -> None:
    """Draw loss, learning rate, images/s, and the figure that chooses the best epoch, over a run's epochs.

    Args:
        records: the log's records; those of a few steps have `epoch`, `loss`, `lr`, `images_per_s`, those of
            a whole epoch have `epoch`, `epoch_loss`
        path: the PNG to write; nothing is drawn where no record has a loss
        score: name of that figure in the records of whole epochs; loss adds no picture of its own
    """
    steps = [record for record in records if record.get("loss") is not None]
    epochs = [record for record in records if record.get("epoch_loss") is not None]
    if not steps:
        return
    at = [record["epoch"] for record in steps]
    scored = [record for record in epochs if score != "loss" and record.get(score) is not None]
    panels = 4 if scored else 3
    figure = Figure(figsize=(3.67 * panels, 3.2), layout="constrained")
    loss, rate, speed, *others = figure.subplots(1, panels)
    loss.plot(at, [record["loss"] for record in steps], color=BLUE, linewidth=0.8, alpha=0.45, label="steps")
    if epochs:
        ends = [record["epoch"] for record in epochs]
        means = [record["epoch_loss"] for record in epochs]
        marker = "o" if len(epochs) < 30 else None
        loss.plot(ends, means, color=ORANGE, linewidth=1.8, marker=marker, markersize=3.5, label="epoch mean")
        loss.legend(frameon=False, fontsize=9)
    rates = [record["lr"] for record in steps]
    power = math.floor(math.log10(max(rates))) if max(rates) > 0 else 0
    rate.plot(at, [value / 10**power for value in rates], color=BLUE, linewidth=1.8)
    rate.set_ylim(bottom=0)
    speed.plot(at, [record["images_per_s"] for record in steps], color=BLUE, linewidth=1.0)
    speed.set_ylim(bottom=0)
    for axes, title in ((loss, "loss"), (rate, f"learning rate / 1e{power}"), (speed, "images/s")):
        _style(axes, title)
    for axes in others:
        values = [record[score] for record in scored]
        axes.plot([record["epoch"] for record in scored], values, color=ORANGE, linewidth=1.8)
        _style(axes, f"{score}, at the end {values[-1]:.1f}")
    save_figure(figure, path)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("epoch", color=GREY, fontsize=9)
    axes.tick_params(colors=GREY, labelsize=9, length=3)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
