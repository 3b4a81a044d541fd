"""Frozen features, measured."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from fcmae.data.features import knn_accuracy
from fcmae.engine.pictures import BLUE
from fcmae.finetune.probe import linear_accuracy, probe


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
