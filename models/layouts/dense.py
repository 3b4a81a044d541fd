"""The dense layout: every position exists. For fine-tuning, evaluation and export.

Shapes: B batch, C channels, H W positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fcmae.models.kernels.depthwise import depthwise_map
from fcmae.models.kernels.grn import gelu_grn
from fcmae.models.kernels.grn_terms import sum_type
from fcmae.models.layouts.base import Layout

fx.wrap("depthwise_map")  # torch.fx sees them as operations
fx.wrap("gelu_grn")


class DenseLayout(Layout):
    """All positions of every image, as (B, H, W, C)."""

    def __init__(self) -> None:
        """Do without a mask: nothing is hidden."""

    def check_images(self, images: Tensor, stride: int) -> None:
        """Take images of any size: there is no mask that they could disagree with."""

    def enter(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 3, 1)

    def downsample(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        out = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, conv.stride)
        return out.permute(0, 2, 3, 1)

    def depthwise(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        return depthwise_map(x, conv.weight, conv.bias)

    def convolve(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        return _on_maps(conv, x)

    def pool(self, x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d) -> Tensor:
        return _on_maps(pool, x)

    def batch_norm(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return _on_maps(norm, x)

    def norm(self, x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2), dtype=sum_type(x))
        return norm

    def spread(self, per_image: Tensor, x: Tensor) -> Tensor:
        return per_image[:, None, None, :]

    def gelu_grn(self, x: Tensor, gamma: Tensor, beta: Tensor, over_batch: bool) -> Tensor:
        return gelu_grn(x, gamma, beta, over_batch)

    def to_map(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def _on_maps(module: nn.Module, x: Tensor) -> Tensor:
    """Run a module of torch on channels-last memory: (B, H, W, C) to (B, H', W', C')."""
    out: Tensor = module(x.permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1)
