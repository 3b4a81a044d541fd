"""The curves of a run show what its log holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from torchvision.io import decode_image

from fcmae.engine.pictures import DPI, draw_curves, plot_curves, plot_schedule
from fcmae.engine.schedule import plan_of

BROKEN = {"step": 1, "lr": 0.1, "not_finite": "loss", "files": []}
STEPS: list[dict[str, Any]] = [
    {"step": i, "epoch": i / 4, "loss": 1 / i, "lr": 0.03 * i, "images_per_s": 90.0 + i} for i in range(1, 9)
]
EPOCHS: list[dict[str, Any]] = [
    {"step": 4, "epoch": 1.0, "epoch_loss": 0.5, "top1": 40.0},
    {"step": 6, "epoch": 1.5, "epoch_loss": None, "top1": None},
    {"step": 8, "epoch": 2.0, "epoch_loss": 0.25, "top1": 62.5},
]


def lines(axes: Axes) -> list[tuple[Any, ...]]:
    return [tuple(np.asarray(line.get_data()).tolist()) for line in axes.lines]


def test_loss_learning_rate_and_speed_are_those_of_the_records() -> None:
    loss, rate, speed = plot_curves([BROKEN, *STEPS, *EPOCHS]).axes
    at = [record["epoch"] for record in STEPS]
    assert lines(loss) == [(at, [record["loss"] for record in STEPS]), ([1.0, 2.0], [0.5, 0.25])]
    legend = loss.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["steps", "epoch mean"]
    assert lines(rate) == [(at, pytest.approx([record["lr"] / 0.1 for record in STEPS]))]
    assert lines(speed) == [(at, [record["images_per_s"] for record in STEPS])]
    titles = ["loss", "learning rate / 1e-1", "images/s"]
    assert [axes.get_title(loc="left") for axes in (loss, rate, speed)] == titles
    assert {axes.get_xlabel() for axes in (loss, rate, speed)} == {"epoch"}
    assert rate.get_ylim()[0] == speed.get_ylim()[0] == 0.0


def test_the_metric_that_chooses_the_best_epoch_has_axes_of_its_own() -> None:
    *_, top1 = plot_curves([*STEPS, *EPOCHS], "top1").axes
    assert lines(top1) == [([1.0, 2.0], [40.0, 62.5])]
    assert top1.get_title(loc="left") == "top1, at the end 62.5"


def test_what_needs_no_labels_is_drawn_where_it_was_measured() -> None:
    watched = [{**EPOCHS[0], "rank": 7.5, "val_loss": 0.6, "distance1": 0.5}, EPOCHS[2]]
    loss, *_, rank = plot_curves([*STEPS, *watched]).axes
    assert lines(loss)[2] == ([1.0], [0.6])
    assert lines(rank) == [([1.0], [7.5])]
    assert rank.get_title(loc="left") == "rank, at the end 7.5"


def test_before_the_first_epoch_ends_and_at_a_learning_rate_of_zero_there_are_curves() -> None:
    loss, rate, _ = plot_curves([{**STEPS[0], "lr": 0.0}], "top1").axes
    assert len(lines(loss)) == 1
    assert lines(rate) == [([0.25], [0.0])]


def test_a_picture_is_written_where_there_is_something_to_draw(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    draw_curves([BROKEN], path)
    assert not path.exists()
    draw_curves([*STEPS, *EPOCHS], path, "top1")
    assert decode_image(str(path)).shape[1:] == (round(3.2 * DPI), int(4 * 3.67 * DPI))


def test_the_schedule_of_a_run_whose_settings_changed_goes_on_from_there() -> None:
    """Half the epochs at one rate, then twice the epochs: solid as it is, dashed as it was meant."""
    plans = [
        plan_of({"epochs": 10, "batch_size": 256, "optim": {"lr": 1.0, "warmup_epochs": 0}}, 0, 4),
        plan_of({"epochs": 20, "batch_size": 256, "optim": {"lr": 1.0, "warmup_epochs": 0}}, 20, 4),
    ]
    [axes] = plot_schedule(plans).axes
    (first_x, first_y), (dropped_x, _), (change_x, _), (second_x, second_y) = lines(axes)
    assert [first_x[0], first_x[-1]] == [0, 5]
    assert [dropped_x[0], dropped_x[-1]] == [5, 10]
    assert axes.lines[1].get_linestyle() == "--"
    assert change_x == [5, 5]
    assert [second_x[0], second_x[-1]] == [5, 20]
    assert first_y[-1] == pytest.approx(0.5)
    assert [second_y[0], second_y[-1]] == pytest.approx([0.5 + 0.5**1.5, 0.0])
