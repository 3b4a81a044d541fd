"""The images of a run: those of classes that have few, too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.finetune.data import class_weights, open_data
from fcmae.finetune.prepare import prepare
from tests.finetune.small_run import small_config


def test_classes_of_one_image_keep_their_number_and_are_trained_on(tmp_path: Path) -> None:
    for name, count in {"a": 1, "b": 10, "c": 1, "d": 10}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8)).save(tmp_path / "data" / name / f"{i}.png")
    config, run = prepare(small_config(tmp_path / "run", data=str(tmp_path / "data"), batch_size=4))
    train, val = open_data(replace(config, train_fraction=0.5), run)
    assert train.classes == val.classes == ["a", "b", "c", "d"]
    assert np.bincount(train.labels).tolist() == [1, 4, 1, 4]
    assert [val.source.name(i)[0] for i in range(len(val.labels))] == ["b", "b", "d", "d"]
    assert val.labels.tolist() == [1, 1, 3, 3]


def test_classes_without_images_weigh_nothing() -> None:
    assert class_weights(np.array([0, 0, 0, 2]), 4).tolist() == pytest.approx([2 / 3, 0, 2, 0])
