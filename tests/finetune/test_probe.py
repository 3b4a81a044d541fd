"""Frozen features, measured."""

import numpy as np

from fcmae.data.features import knn_accuracy
from fcmae.finetune.probe import linear_accuracy


def test_probes_find_what_the_features_hold() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    clear = np.eye(4)[labels] + 0.1 * generator.normal(size=(200, 4))
    noise = generator.normal(size=(200, 4))
    for accuracy in (knn_accuracy, linear_accuracy):
        assert accuracy((clear[::2], labels[::2]), (clear[1::2], labels[1::2])) == 100
        assert accuracy((noise[::2], labels[::2]), (noise[1::2], labels[1::2])) < 50
