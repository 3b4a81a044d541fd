"""Global response normalisation (ConvNeXt V2, arXiv 2301.00808, section 3.3), with its gradient.

Left to autograd, GRN makes a dozen passes over the widest activations of the network. Written out it is three
passes forward and five backward. The Triton kernels, in `grn_triton.py`, take the GELU before it along.

Shapes: B groups that are normalised apart (images), N positions of each, C channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.models.kernels.calls import note
from fcmae.models.kernels.choice import Impl, use_triton

EPS = 1e-6


def response(norm: Tensor) -> Tensor:
    """Each channel's norm (B, C) over the mean of its image's channels."""
    return norm / (norm.mean(-1, keepdim=True) + EPS)


def gelu_grn(x: Tensor, gamma: Tensor, beta: Tensor, over_batch: bool = False, impl: Impl = "auto") -> Tensor:
    """`global_response_norm` of gelu(x): (B, ..., C), (C,) and (C,) to (B, ..., C).

    Args:
        over_batch: normalise all images together, not each by itself
        impl: see `fcmae.models.kernels.choice`
    """
    note("gelu_grn", x)
    groups = x.reshape(1 if over_batch else x.shape[0], -1, x.shape[-1])
    if use_triton(impl, x):
        from fcmae.models.kernels import grn_triton

        return grn_triton.gelu_grn(groups, gamma, beta).view(x.shape)
    return global_response_norm(F.gelu(groups), gamma, beta).view(x.shape)


def global_response_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """gamma * (x * response) + beta + x, where response is the L2 norm over positions over its channel mean.

    Args:
        x: (B, N, C); sums are taken in float32 or better
        gamma, beta: (C,)
    """
    out: Tensor = _GlobalResponseNorm.apply(x, gamma, beta)
    return out


def scale_and_slope(grad_scale: Tensor, gamma: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of the gradient of x, which is scale * grad + slope * x.

    Args:
        grad_scale: (B, C), the sum of grad * x over positions
        gamma: (C,)
        norm: (B, C)
    """
    grad_response = grad_scale * gamma
    mean = norm.mean(-1, keepdim=True) + EPS
    # response = norm / mean: through the numerator, and through the mean that all channels share
    shared = (grad_response * norm).sum(-1, keepdim=True) / (mean.square() * norm.shape[-1])
    grad_norm = grad_response / mean - shared
    slope = torch.where(norm > 0, grad_norm / norm, 0)  # of norm by x is x / norm, 0 at 0
    return 1 + gamma * norm / mean, slope


def sum_type(x: Tensor) -> torch.dtype:
    """The type in which squares of x are summed: at least float32, since squares overflow half precision."""
    return torch.promote_types(x.dtype, torch.float32)


class _GlobalResponseNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        norm = x.to(sum_type(x)).square().sum(1).sqrt()
        scale = 1 + gamma * response(norm)
        ctx.save_for_backward(x, gamma, norm)
        return torch.addcmul(beta.to(x.dtype), x, scale[:, None].to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma, norm = ctx.saved_tensors
        grad_scale = (grad * x).sum(1, dtype=norm.dtype)
        scale, slope = scale_and_slope(grad_scale, gamma, norm)
        largest = torch.finfo(x.dtype).max  # a slope over a tiny norm can be beyond half precision
        scale, slope = (each[:, None].clamp(-largest, largest).to(x.dtype) for each in (scale, slope))
        grad_x = (grad * scale).addcmul_(x, slope)
        return grad_x, (grad_scale * response(norm)).sum(0), grad.sum((0, 1), dtype=norm.dtype)
