"""The report of an evaluation says and draws what was counted."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fcmae.core.errors import UserError
from fcmae.finetune import report
from fcmae.finetune.measure import Scores
from fcmae.finetune.report import NAMED_CLASSES, draw_confusion, draw_worst, worst_classes, write_report

CLASSES = ["ant", "bee", "cat", "dog"]
# ant and bee are taken for each other unequally, cat is always taken for bee, dog has no image
COUNTS = [[8, 2, 0, 0], [1, 4, 5, 0], [0, 3, 0, 0], [0, 0, 0, 0]]
PERCENT = [[80, 20, 0, 0], [10, 40, 50, 0], [0, 100, 0, 0], [0, 0, 0, 0]]


def scored(confusion: bool = True) -> Scores:
    """Scores of 23 images with these counts."""
    scores = Scores(len(CLASSES), torch.device("cpu"), confusion)
    for true, row in enumerate(COUNTS):
        for predicted, count in enumerate(row):
            logits = torch.eye(len(CLASSES))[[predicted] * count]
            scores.add(logits, torch.full((count,), true))
    return scores


def names_of(axes: Axes, axis: str) -> list[str]:
    """The labels of an axis by place, in the order of their places."""
    ticks = axes.get_xticks() if axis == "x" else axes.get_yticks()
    labels = axes.get_xticklabels() if axis == "x" else axes.get_yticklabels()
    assert list(ticks) == list(range(len(labels)))
    return [label.get_text() for label in labels]


def test_a_confusion_matrix_has_true_classes_in_rows_and_the_first_on_top() -> None:
    figure = draw_confusion(torch.tensor(COUNTS), CLASSES)
    axes, bar = figure.axes
    (picture,) = axes.images
    assert np.asarray(picture.get_array()).tolist() == PERCENT
    assert picture.get_clim() == (0, 100)
    assert picture.origin == "upper"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert names_of(axes, "x") == names_of(axes, "y") == CLASSES
    assert bar.get_ylabel() == "% of the true class"


def test_many_classes_are_drawn_without_their_names() -> None:
    count = NAMED_CLASSES + 1
    axes = draw_confusion(torch.eye(count), [f"class {i}" for i in range(count)]).axes[0]
    assert not any("class" in label.get_text() for label in axes.get_xticklabels())
    assert np.array_equal(np.asarray(axes.images[0].get_array()), 100 * np.eye(count))


def test_the_worst_class_is_drawn_on_top_with_what_it_is_taken_for() -> None:
    worst = worst_classes(scored(), CLASSES)
    assert worst == [("cat", 3, 0.0, "bee"), ("bee", 10, 40.0, "cat"), ("ant", 10, 80.0, "bee")]
    (axes,) = draw_worst(worst).axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [bar.get_width() for bar in bars] == [0, 40, 80]
    assert [bar.get_y() + bar.get_height() / 2 for bar in bars] == pytest.approx([0, 1, 2])
    assert names_of(axes, "y") == ["cat, as bee", "bee, as cat", "ant, as bee"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert axes.get_xlim() == (0, 100)


def test_without_a_matrix_nothing_is_said_of_mistakes() -> None:
    assert [row[3] for row in worst_classes(scored(confusion=False), CLASSES)] == ["", "", ""]


def test_a_report_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(report, "save_figure", lambda figure, path: drawn.update({path.name: figure}))
    metrics = {"top1": 52.17, "images": 23}
    write_report(scored(), metrics, CLASSES, tmp_path / "report")
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == metrics
    with (tmp_path / "report" / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["true / predicted", *CLASSES]
    assert rows == [[name, *map(str, row)] for name, row in zip(CLASSES, COUNTS, strict=True)]
    with (tmp_path / "report" / "worst_classes.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["class", "images", "accuracy", "most often taken for"]
    assert rows[1] == ["bee", "10", "40.00", "cat"]
    assert np.asarray(drawn["confusion.png"].axes[0].images[0].get_array()).tolist() == PERCENT
    assert names_of(drawn["worst_classes.png"].axes[0], "y")[0] == "cat, as bee"


def test_a_matrix_of_a_former_report_does_not_stay(tmp_path: Path) -> None:
    write_report(scored(), {}, CLASSES, tmp_path)
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    write_report(scored(confusion=False), {}, CLASSES, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.json", "worst_classes.csv", "worst_classes.png",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"taken"):
        write_report(scored(), {}, CLASSES, tmp_path / "taken")
