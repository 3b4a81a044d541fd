"""The curves of a run, and how a picture of Matplotlib is written."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcmae.core.files import write_atomically
from fcmae.engine.schedule import Plan

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"
DPI = 110
WATCHED = ("knn", "rank")  # metrics that are drawn where they were measured
HELD_OUT = "val_loss"


def draw_curves(records: Sequence[dict[str, Any]], path: Path, metric: str = "loss") -> None:
    """Write the curves of a run as PNG; write nothing where no record has a loss.

    Args:
        records: of the log, as `plot_curves` takes them
        path: the PNG
        metric: name of what chooses the best epoch
    """
    if any(map(_has_step, records)):
        save_figure(plot_curves(records, metric), path)


def plot_curves(records: Sequence[dict[str, Any]], metric: str = "loss") -> Figure:
    """Plot a run over its epochs: loss, also of held-out images, learning rate, images/s, what was measured.

    Args:
        records: of the log. Those of a few steps have `epoch`, `loss`, `lr` and `images_per_s`, those of a
            whole epoch `epoch`, `epoch_loss` and metrics; others are passed over, and at least one has a loss
        metric: the one in the records of whole epochs that chooses the best epoch. It has axes of its own, as
            those of `WATCHED` have; a loss has none beside the loss
    """
    steps = [record for record in records if _has_step(record)]
    epochs = [record for record in records if _holds_numbers(record, "epoch_loss", "epoch")]
    names = dict.fromkeys(name for name in (metric, *WATCHED) if name not in ("loss", HELD_OUT))
    measured = {name: [record for record in epochs if _holds_numbers(record, name)] for name in names}
    measured = {name: found for name, found in measured.items() if found}
    columns = 3 + len(measured)
    figure = Figure(figsize=(3.67 * columns, 3.2), layout="constrained")
    loss, rate, speed, *others = figure.subplots(1, columns)
    at = [record["epoch"] for record in steps]
    loss.plot(at, [record["loss"] for record in steps], color=BLUE, linewidth=0.8, alpha=0.45, label="steps")
    if epochs:
        marker = "o" if len(epochs) < 30 else None
        loss.plot(
            [record["epoch"] for record in epochs],
            [record["epoch_loss"] for record in epochs],
            color=ORANGE,
            linewidth=1.8,
            marker=marker,
            markersize=3.5,
            label="epoch mean",
        )
        held_out = [record for record in epochs if _holds_numbers(record, HELD_OUT)]
        if held_out:
            values = [record[HELD_OUT] for record in held_out]
            loss.plot(
                [record["epoch"] for record in held_out], values, color=GREY, linewidth=1.8, label="held out"
            )
        loss.legend(frameon=False, fontsize=9)
    rates = [record["lr"] for record in steps]
    power = math.floor(math.log10(max(rates))) if max(rates) > 0 else 0
    rate.plot(at, [value / 10**power for value in rates], color=BLUE, linewidth=1.8)
    rate.set_ylim(bottom=0)
    speed.plot(at, [record["images_per_s"] for record in steps], color=BLUE, linewidth=1.0)
    speed.set_ylim(bottom=0)
    for axes, title in ((loss, "loss"), (rate, f"learning rate / 1e{power}"), (speed, "images/s")):
        _style(axes, title)
    for axes, (name, found) in zip(others, measured.items(), strict=True):
        values = [record[name] for record in found]
        axes.plot([record["epoch"] for record in found], values, color=ORANGE, linewidth=1.8)
        _style(axes, f"{name}, at the end {values[-1]:.1f}")
    return figure


def draw_schedule(plans: Sequence[Plan], path: Path) -> None:
    """Write the learning rate of a run as PNG: as it is, and as it was before the settings changed.

    Args:
        plans: one each time the settings changed, oldest first
        path: the PNG
    """
    save_figure(plot_schedule(plans), path)


def plot_schedule(plans: Sequence[Plan]) -> Figure:
    """Plot what each plan has said until the next one, and what former ones would have said, dashed."""
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for plan, following in zip(plans, [*plans[1:], None], strict=True):
        end = following.start if following else math.inf
        held = [(epoch, rate) for epoch, rate in plan.rates if plan.start <= epoch <= end]
        axes.plot(*zip(*held, strict=True), color=BLUE, linewidth=1.8)
        if following:
            dropped = [(epoch, rate) for epoch, rate in plan.rates if epoch >= end]
            axes.plot(*zip(*dropped, strict=True), color=GREY, linewidth=1.0, linestyle="--")
            axes.axvline(end, color=ORANGE, linewidth=1.0)
    axes.set_ylim(bottom=0)
    _style(axes, "learning rate, and what was planned before")
    return figure


def _has_step(record: dict[str, Any]) -> bool:
    """Return whether a record is of a few steps with a finite loss."""
    return _holds_numbers(record, "loss", "epoch", "lr", "images_per_s")


def _holds_numbers(record: dict[str, Any], *names: str) -> bool:
    """Return whether all of these are numbers: the log may have been damaged, and null is not finite."""
    return all(isinstance(record.get(name), int | float) for name in names)


def _style(axes: Axes, title: str) -> None:
    """Give axes over epochs their title and the look that all have."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("epoch", color=GREY, fontsize=9)
    axes.tick_params(colors=GREY, labelsize=9, length=3)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
