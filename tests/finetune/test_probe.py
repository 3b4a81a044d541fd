"""Frozen features, measured: linear classifiers, and how alike a network's channels have become."""

import numpy as np
import pytest
import torch

from fcmae import create_model
from fcmae.data.features import knn_accuracy
from fcmae.finetune.collapse import channel_distance, collapse_by_block
from fcmae.finetune.probe import linear_accuracy


def test_probes_find_what_the_features_hold() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    clear = np.eye(4)[labels] + 0.1 * generator.normal(size=(200, 4))
    noise = generator.normal(size=(200, 4))
    for accuracy in (knn_accuracy, linear_accuracy):
        assert accuracy((clear[::2], labels[::2]), (clear[1::2], labels[1::2])) == 100
        assert accuracy((noise[::2], labels[::2]), (noise[1::2], labels[1::2])) < 50


def test_channel_distance_is_the_mean_over_pairs() -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for image, distance in zip(x, channel_distance(x), strict=True):
        channels = image.flatten(0, 1).T
        pairs = [
            (1 - torch.nn.functional.cosine_similarity(channels[i], channels[j], dim=0)) / 2
            for i in range(5)
            for j in range(5)
            if i != j
        ]
        assert float(distance) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)
    alike = torch.ones(1, 4, 4, 6)
    assert float(channel_distance(alike)) == pytest.approx(0, abs=1e-9)


def test_collapse_leaves_no_hook_behind() -> None:
    model = create_model("convnextv2_atto", num_classes=0, depths=(1, 1, 2, 1), dims=(4, 4, 4, 4))
    found = collapse_by_block(model, torch.randn(2, 3, 64, 64))
    assert list(found) == ["stages.0.0", "stages.1.0", "stages.2.0", "stages.2.1", "stages.3.0"]
    assert not any(module._forward_hooks for module in model.modules())
