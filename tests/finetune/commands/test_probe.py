"""Frozen features, measured."""

from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from PIL import Image, ImageColor

from fcmae.data.features import knn_accuracy
from fcmae.engine.pictures import BLUE
from fcmae.finetune.commands.probe import draw_collapse, linear_accuracy, probe


def test_probes_find_what_the_features_hold() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    clear = np.eye(4)[labels] + 0.1 * generator.normal(size=(200, 4))
    noise = generator.normal(size=(200, 4))
    for accuracy in (knn_accuracy, linear_accuracy):
        assert accuracy((clear[::2], labels[::2]), (clear[1::2], labels[1::2])) == 100
        assert accuracy((noise[::2], labels[::2]), (noise[1::2], labels[1::2])) < 50


def test_a_probe_measures_features_and_draws_their_collapse(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "collapse.png"
    trained = probe(run, "digits", collapse=picture, limit=400, device="cpu", workers=0)
    assert trained["knn"] > 70
    assert trained["linear"] > 70
    assert 380 <= trained["train_images"] <= 420
    assert list(trained["collapse"]) == ["stages.0.0", "stages.1.0", "stages.2.0", "stages.3.0"]
    assert all(0.1 < distance < 0.6 for distance in trained["collapse"].values())
    with Image.open(picture) as image:
        line = (np.array(image.convert("RGB")) == ImageColor.getrgb(BLUE)).all(2)
    assert line.any(0).mean() > 0.7  # it goes from side to side


def test_the_distance_of_each_block_is_drawn_as_one_line() -> None:
    distances = {"stages.0.0": 0.5, "stages.1.0": 0.25, "stages.2.0": 0.01}
    (axes,) = draw_collapse(distances).axes
    (line,) = axes.lines
    assert isinstance(line, Line2D)
    assert np.asarray(line.get_xydata()).tolist() == [[0, 0.5], [1, 0.25], [2, 0.01]]
    assert line.get_visible()
    assert (line.get_linestyle(), line.get_marker()) == ("-", "o")
    assert line.get_linewidth() > 1
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert top >= 0.5
    ticks = dict(zip(axes.get_xticks(), axes.get_xticklabels(), strict=True))
    assert {place: label.get_text() for place, label in ticks.items()} == dict(enumerate(distances))


def test_a_long_network_names_some_of_its_blocks() -> None:
    distances = {f"stages.2.{i}": 0.4 for i in range(40)}
    (axes,) = draw_collapse(distances).axes
    named = {
        int(tick): label.get_text()
        for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    }
    assert 10 <= len(named) <= 18
    assert all(name == f"stages.2.{place}" for place, name in named.items())
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [0.4] * 40
