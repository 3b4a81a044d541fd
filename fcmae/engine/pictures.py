"""The pictures of a run: its curves, and grids of images side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fcmae.engine.files import write_atomically

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
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("epoch", color=GREY, fontsize=9)
    axes.tick_params(colors=GREY, labelsize=9, length=3)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def draw_grid(columns: dict[str, Tensor], path: Path, *, across: int = 1, size: float = 1.2) -> None:
    """Draw the same images in several forms side by side, one column a form.

    Args:
        columns: title and images (N, C, H, W) of each form, in [0, 1]; what lies outside is clipped.
            One or two channels are drawn grey (the first), more in colour (the first three)
        path: the PNG to write
        across: how many images share a row
        size: width of one image in inches, at 110 dots each
    """
    titles, images = list(columns), list(columns.values())
    count, _, height, width = images[0].shape
    rows = -(-count // across)
    figure = Figure(
        figsize=(across * len(titles) * size * 1.04, rows * size * height / width * 1.04 + 0.25), dpi=DPI
    )
    axes = figure.subplots(rows, across * len(titles), squeeze=False)
    for row in axes.flat:
        row.set_axis_off()
    for number in range(count):
        for form, title in enumerate(titles):
            cell = axes[number // across, number % across * len(titles) + form]
            _draw_image(cell, images[form][number])
            if number < across:
                cell.set_title(title, fontsize=9, color=GREY)
    figure.tight_layout(pad=0.3, h_pad=0.3, w_pad=0.3)
    with write_atomically(path) as file:
        figure.savefig(file, format="png", dpi=DPI)


def _draw_image(cell: Axes, image: Tensor) -> None:
    pixels = image.detach().float().cpu().clamp(0, 1)
    if len(pixels) < 3:
        cell.imshow(pixels[0].numpy(), cmap="gray", vmin=0, vmax=1)
    else:
        cell.imshow(pixels[:3].permute(1, 2, 0).numpy())
