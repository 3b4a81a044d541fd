"""Feature collapse: how alike a network's channels have become, measured and drawn."""

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D

from fcmae import create_model
from fcmae.finetune.collapse import channel_distance, collapse_by_block, draw_collapse


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
