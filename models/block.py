"""The blocks of ConvNeXt V1 (Liu et al., arXiv 2201.03545) and V2 (Woo et al., arXiv 2301.00808).

Shapes: B batch, C channels; (..., C) positions as the layout keeps them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from fcmae.models.kernels.choice import autocast_type
from fcmae.models.kernels.pointwise import pointwise
from fcmae.models.layouts.base import Layout

GRNScope = Literal["image", "batch"]

for function in ("layer_norm", "pointwise"):
    fx.wrap(function)  # torch.fx sees them as operations


class LayerNorm(nn.LayerNorm):
    """Layer norm over channels that reads and writes autocast's type on a GPU, with statistics in float32.

    By itself, autocast on a GPU widens both to float32, and with them the residuals of the first stage; on a
    CPU it does not. docs/performance.md says what the difference is in bytes and in rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise channels (..., C) with weight and bias (C,); see `LayerNorm`."""
    dtype = autocast_type(x) if x.is_cuda else None
    if dtype is None:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x.to(dtype), weight.shape, weight.to(dtype), bias.to(dtype), eps)


class Linear(nn.Linear):
    """A linear layer over channels, by the faster of two libraries: `fcmae.models.kernels.pointwise`."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x (..., C) by the weight and add the bias: (..., D)."""
        return pointwise(x, self.weight, self.bias)


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution as a layout does it.

    It is called, not read, so that hooks see what goes through it, pruned weights are fresh, and a module
    that wraps it, as a low-rank adapter does, has its say.
    """

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        """Convolve positions (..., C) of that layout: (..., C)."""
        return layout.depthwise(x, self)


class GRN(nn.Module):
    """GELU, then global response normalisation (ConvNeXt V2, section 3.3): channels compete by their norms.

    The two are one operation because memory bounds both, and together they make fewer passes over it.

    Args:
        dim: channels
        scope: "image" takes the norm over each image's existing positions, as in the paper; "batch" over all
            positions of the batch, which only serves to reproduce the authors' sparse PyTorch code
    """

    def __init__(self, dim: int, scope: GRNScope = "image") -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.scope = scope

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Apply both to positions (..., C) of that layout."""
        return layout.gelu_grn(x, self.gamma.flatten(), self.beta.flatten(), self.scope == "batch")


class Block(nn.Module):
    """A ConvNeXt block: 7x7 depthwise convolution, layer norm, an inverted bottleneck, a residual.

    Args:
        dim: channels
        drop_path: probability that an image skips the block in training
        layer_scale: initial scale of the residual branch, which makes a V1 block; by default a V2 block, with
            GRN in its place
        grn_scope: positions of GRN's norm, as for GRN
        grad_checkpointing: in training, do not keep the bottleneck's wide activations but compute them again
            for the gradient
    """

    def __init__(
        self,
        dim: int,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        grn_scope: GRNScope = "image",
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.dwconv = DepthwiseConv(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm(dim, eps=1e-6)
        self.pwconv1 = Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim, grn_scope) if layer_scale is None else None
        self.pwconv2 = Linear(4 * dim, dim)
        self.gamma = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = drop_path
        self.grad_checkpointing = grad_checkpointing

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Add the residual branch to positions x (..., C) of that layout."""
        branch = self.dwconv(x, layout)
        if self.grad_checkpointing and self.training:
            branch = checkpoint(self._bottleneck, branch, layout, use_reentrant=False)
        else:
            branch = self._bottleneck(branch, layout)
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            survival = branch.new_empty(layout.batch_size(x), 1).bernoulli_(keep) / keep
            branch = branch * layout.spread(survival, branch)
        return x + branch

    def _bottleneck(self, x: Tensor, layout: Layout) -> Tensor:
        """Do all that works on one position at a time, but for GRN's norm: (..., C) to (..., C)."""
        x = self.pwconv1(self.norm(x))
        x = F.gelu(x) if self.grn is None else self.grn(x, layout)
        x = self.pwconv2(x)
        return x if self.gamma is None else x * self.gamma


def init_weights(module: nn.Module) -> None:
    """Draw weights from a truncated normal of standard deviation 0.02; biases are 0, norms and GRN stay."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
