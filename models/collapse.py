"""Feature collapse: how alike the channels of each block have become.

Shapes: B batch, C channels, H W positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

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


@contextmanager
def distances_recorded(model: ConvNeXt) -> Iterator[dict[str, Tensor]]:
    """Record the `channel_distance` of the images of a forward pass after each block, by the block's name.

    Yields:
        distances (B,) on the CPU, in the order of the network, of the last forward pass in the `with` block
    """
    found: dict[str, Tensor] = {}

    def record(name: str, output: Tensor) -> None:
        found[name] = channel_distance(output.cpu())  # MPS has no float64

    hooks = [
        block.register_forward_hook(lambda _, __, output, name=f"stages.{i}.{j}": record(name, output))
        for i, stage in enumerate(model.stages.children())
        for j, block in enumerate(stage.children())
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def collapse_by_block(model: ConvNeXt, images: Tensor) -> dict[str, float]:
    """Return the mean `channel_distance` of images after each block, by name, in the order of the network.

    Args:
        model: whose stages run
        images: normalised (B, C, H, W)
    """
    with distances_recorded(model) as distances:
        model.forward_stages(images)
    return {name: float(distance.mean()) for name, distance in distances.items()}
