"""Depthwise convolution over visible tiles, and over dense maps, with its gradients.

In PyTorch, each tile is gathered together with its halo and convolved without padding, so that nothing is
computed at a hidden position. The gradient of the input is the same operation with the kernel turned round.
The gradient of the weight, by far the slowest part of PyTorch's depthwise convolutions, is a batched matrix
product: for each channel, all pairs of (output position, halo position), of which the diagonals belong to one
tap each. The Triton kernels are in `depthwise_triton.py`.

Shapes: T tiles of all images, p tile side, k kernel side, q = p + k - 1, C channels.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.models.kernels.calls import note
from fcmae.models.kernels.choice import Impl, autocast_type, use_triton
from fcmae.models.kernels.plain import differentiable_gradients, transforms_active

LARGEST_TILE = 8  # side that the Triton kernels take
MAP_TILES = (8, 4, 7, 6, 5)  # side of a dense map's tiles: the first that divides it; smaller ones do not pay


def depthwise_tiles(
    x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor, impl: Impl = "auto"
) -> Tensor:
    """Convolve tiles (..., p, p, C) that see their visible neighbours, depthwise; the shape stays.

    Args:
        x: (..., p, p, C), T tiles in all
        weight: (C, 1, k, k) with odd k
        bias: (C,)
        table: (T, q, q) int64, the row of x, flattened to (T * p * p, C), at each position of a tile and its
            halo; T * p * p stands for a zero
        impl: auto, or the implementation to insist on (`fcmae.models.kernels.choice`)

    Raises:
        ValueError: Triton is insisted on, and cannot run
    """
    note("depthwise_tiles", x, x.shape[-3], x.shape[-2])
    x = _as_autocast(x)
    if use_triton(impl, x, partial(_refusal, x.shape[-2], weight.shape[-1])):
        from fcmae.models.kernels.depthwise_triton import depthwise

        return depthwise(x, weight, bias, table, x.shape[-2])
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    if transforms_active():
        return plain_depthwise_tiles(x, weight, bias, table)
    out: Tensor = _DepthwiseTiles.apply(x, weight, bias, table)
    return out


def depthwise_map(x: Tensor, weight: Tensor, bias: Tensor | None, impl: Impl = "auto") -> Tensor:
    """Convolve dense maps (B, H, W, C) with zeros around them, depthwise; the shape stays.

    Args:
        x: (B, H, W, C)
        weight: (C, 1, k, k) with odd k
        bias: (C,)
        impl: auto, or the implementation to insist on (`fcmae.models.kernels.choice`)

    Raises:
        ValueError: Triton is insisted on, and cannot run
    """
    note("depthwise_map", x, x.shape[1], x.shape[2])
    if use_triton(impl, _as_autocast(x), partial(_map_refusal, x, weight)):
        from fcmae.models.kernels.depthwise_triton import depthwise

        return depthwise(_as_autocast(x), weight, bias, None, map_tile(x.shape[1], x.shape[2]))
    padding = weight.shape[-1] // 2
    out = F.conv2d(x.permute(0, 3, 1, 2), as_stored(weight), bias, padding=padding, groups=weight.shape[0])
    return out.permute(0, 2, 3, 1)


def map_tile(height: int, width: int) -> int:
    """Return the side of the tiles that the Triton kernels cut a map into; 0 where they do not take it."""
    return next((side for side in MAP_TILES if height % side == width % side == 0), 0)


def _refusal(side: int, kernel: int) -> str | None:
    """Return why the Triton kernels do not take tiles of this side, or None where they do."""
    if side > LARGEST_TILE or kernel > 7:
        return f"the depthwise kernels take tiles up to 8 and kernels up to 7, not {side} and {kernel}"
    return None


def _map_refusal(x: Tensor, weight: Tensor) -> str | None:
    """Say why the Triton kernels do not take this map (B, H, W, C), if they do not."""
    side = map_tile(x.shape[1], x.shape[2])
    if side == 0:
        return f"a map of {x.shape[1]} x {x.shape[2]} does not divide into tiles of 4 to 8"
    return _refusal(side, weight.shape[-1])


def as_stored(weight: Tensor) -> Tensor:
    """Return a convolution's weight so that its gradient gets the strides that the weight has.

    Where a side or a group's inputs are one, PyTorch leaves their strides as they happen to be: harmless, but
    for the warning with which DistributedDataParallel meets them.
    """
    return weight.flatten(1).view_as(weight)


def _as_autocast(x: Tensor) -> Tensor:
    """Return x in the type that autocast gives convolutions, where it is on."""
    return x.to(autocast_type(x) or x.dtype)


class _DepthwiseTiles(torch.autograd.Function):
    """The convolution over tiles in PyTorch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias, table)
        return plain_depthwise_tiles(x, weight, bias, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, table = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_gradients(
                plain_depthwise_tiles, (x, weight, bias, table), ctx.needs_input_grad, grad
            )
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(_with_halo(grad, table), weight.flip(2, 3), None).view_as(x)
        if ctx.needs_input_grad[1]:
            tiles = grad.reshape(-1, *x.shape[-3:])
            grad_weight = _weight_gradient(_with_halo(x, table), tiles).view_as(weight)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.flatten(0, -2).sum(0)
        return grad_x, grad_weight, grad_bias, None


def plain_depthwise_tiles(x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor) -> Tensor:
    """Compute `depthwise_tiles` in plain PyTorch, which differentiates it as often as one likes."""
    return _convolve(_with_halo(x, table), weight, bias).view_as(x)


def _with_halo(x: Tensor, table: Tensor) -> Tensor:
    """Gather tiles (..., p, p, C) with their halo: (T, q, q, C)."""
    rows = x.flatten(0, -2)
    rows = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
    return rows.index_select(0, table.flatten()).view(*table.shape, rows.shape[1])


def _convolve(halo: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve (T, q, q, C) depthwise, without padding: (T, p, p, C), contiguous."""
    out = F.conv2d(halo.permute(0, 3, 1, 2), weight, bias, groups=len(weight))
    return out.permute(0, 2, 3, 1).contiguous()


def _weight_gradient(halo: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient (C, k, k) from the input (T, q, q, C) and the output's gradient (T, p, p, C)."""
    (tiles, q, _, channels), p = halo.shape, grad.shape[1]
    k = q - p + 1
    outputs = grad.reshape(tiles, p * p, channels).permute(2, 1, 0).contiguous()
    inputs = halo.view(tiles, q * q, channels).permute(2, 0, 1).contiguous()
    pairs = torch.bmm(outputs, inputs)  # (C, p * p, q * q)
    # Tap (a, b) is the sum over output positions (i, j) of the pair (i, j), (i + a, j + b).
    taps = pairs.as_strided((channels, k, k, p, p), (p * p * q * q, q, 1, p * q * q + q, q * q + 1))
    return taps.sum((-1, -2))
