"""Feature collapse: how alike a network's channels have become, measured."""

import pytest
import torch

from fcmae import create_model
from fcmae.models.collapse import channel_distance, collapse_by_block


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
