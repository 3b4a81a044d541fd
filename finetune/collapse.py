"""Feature collapse: how alike the channels of each block have become.

Shapes: B batch, C channels, H W positions.
"""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from fcmae.engine.pictures import BLUE, GREY
from fcmae.models.convnext import ConvNeXt


def channel_distance(x: Tensor) -> Tensor:
    """Average (1 - cos) / 2 over pairs of channels, for each image: (B, H, W, C) to (B,).

    The measure of ConvNeXt V2 (arXiv 2301.00808, section 4): 0 where all channels are alike, about 1/2 where
    they have nothing in common. A pair is two different channels.
    """
    channels = x.shape[-1]
    units = F.normalize(x.flatten(1, -2).double(), dim=1)
    total = units.sum(2).square().sum(1)  # cosines of all pairs, each channel's own included
    alone = units.square().sum((1, 2))
    return (1 - (total - alone) / (channels * (channels - 1))) / 2


@torch.no_grad()
def collapse_by_block(model: ConvNeXt, images: Tensor) -> dict[str, float]:
    """Return the mean `channel_distance` of images after each block, by name, in the order of the network.

    Args:
        model: whose stages run
        images: normalised (B, C, H, W)
    """
    found: dict[str, float] = {}

    def record(name: str, output: Tensor) -> None:
        found[name] = float(channel_distance(output.cpu()).mean())  # MPS has no float64

    blocks = [
        (f"stages.{i}.{j}", block)
        for i, stage in enumerate(model.stages.children())
        for j, block in enumerate(stage.children())
    ]
    hooks = [
        block.register_forward_hook(lambda _, __, output, name=name: record(name, output))
        for name, block in blocks
    ]
    try:
        model.forward_stages(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def draw_collapse(distances: dict[str, float]) -> Figure:
    """Draw the distance of each block, in the order of the network, as a line."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    places = range(len(distances))
    axes.plot(places, list(distances.values()), color=BLUE, marker="o", markersize=4, linewidth=1.8)
    axes.set_ylim(0, 0.6)
    step = -(-len(distances) // 18)
    axes.set_xticks(list(places)[::step], list(distances)[::step], rotation=45, ha="right", fontsize=8)
    axes.set_title(
        "distance of channels, mean of (1 - cos) / 2: near 0 they have collapsed", loc="left", fontsize=10
    )
    axes.tick_params(colors=GREY, length=3)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
