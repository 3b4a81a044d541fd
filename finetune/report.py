"""The report of an evaluation: metrics, confusion matrix and worst classes, as CSV and PNG.

Shapes: K classes.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically
from fcmae.engine.pictures import BLUE, GREY, save_figure
from fcmae.finetune.measure import Scores

NUM_WORST = 20
NAMED_CLASSES = 40  # more names would not be readable beside the matrix


def write_report(scores: Scores, metrics: dict[str, Any], classes: list[str], out: Path) -> None:
    """Write metrics.json, worst_classes.csv and .png, and confusion.csv and .png where the scores have them.

    Args:
        scores: of all images
        metrics: what `evaluate` returns
        classes: names of the K classes
        out: folder; made where it is missing

    Raises:
        UserError: the folder cannot be written
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with write_atomically(out / "metrics.json") as file:
            file.write((json.dumps(metrics, indent=2) + "\n").encode())
        worst = worst_classes(scores, classes)
        rows = [(name, count, f"{accuracy:.2f}", confused) for name, count, accuracy, confused in worst]
        write_csv(out / "worst_classes.csv", ("class", "images", "accuracy", "most often taken for"), rows)
        save_figure(draw_worst(worst[:NUM_WORST]), out / "worst_classes.png")
        if scores.confusion.numel():
            matrix = scores.confusion.cpu()
            lines = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
            write_csv(out / "confusion.csv", ("true / predicted", *classes), lines)
            save_figure(draw_confusion(matrix, classes), out / "confusion.png")
        else:  # nothing of a former report stays
            for name in ("confusion.csv", "confusion.png"):
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror}); choose another folder"
        ) from error


def worst_classes(scores: Scores, classes: list[str]) -> list[tuple[str, int, float, str]]:
    """Return each class that has images, the worst first: name, images, accuracy, what it is most taken for.

    Accuracy is in percent. What it is taken for is empty without a confusion matrix, and for a class without
    a mistake.
    """
    found = []
    for number, (count, right) in enumerate(zip(scores.images.tolist(), scores.right.tolist(), strict=True)):
        if count == 0:
            continue
        confused = ""
        if scores.confusion.numel() and right < count:
            others = scores.confusion[number].clone()
            others[number] = -1
            confused = classes[int(others.argmax())]
        found.append((classes[number], count, 100 * right / count, confused))
    return sorted(found, key=lambda row: row[2])


def draw_worst(worst: list[tuple[str, int, float, str]]) -> Figure:
    """Draw the accuracy of classes, as `worst_classes` gives them, as bars, the first on top."""
    figure = Figure(figsize=(6, 0.6 + 0.26 * len(worst)), layout="constrained")
    axes = figure.subplots()
    names = [f"{name}, as {confused}" if confused else name for name, _, _, confused in worst]
    places = range(len(worst))
    axes.barh(places, [accuracy for _, _, accuracy, _ in worst], color=BLUE, height=0.7)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_title("worst classes: accuracy in %, and what they are taken for", loc="left", fontsize=10)
    axes.tick_params(colors=GREY, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_confusion(matrix: Tensor, classes: list[str]) -> Figure:
    """Draw a confusion matrix in percent of each row.

    Args:
        matrix: counts (K, K), true classes in rows and predicted ones in columns
        classes: names of the K classes; they are written where they are few
    """
    counts = matrix.numpy().astype(np.float64)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(classes) <= NAMED_CLASSES
    side = 2.5 + 0.22 * len(classes) if named else 7.0
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(picture, shrink=0.7, label="% of the true class")
    if named:
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set_xlabel("predicted", color=GREY)
    axes.set_ylabel("true", color=GREY)
    axes.tick_params(length=0)
    return figure


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
