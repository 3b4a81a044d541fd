"""Global response normalisation (ConvNeXt V2, arXiv 2301.00808, section 3.3), with its gradient.

Left to autograd, GRN makes a dozen passes over the widest activations of the network. Written out it is three
passes forward and five backward. The Triton kernels, in `grn_triton.py`, take the GELU before it along.

Shapes: B groups that are normalised apart (images), N positions of each, C channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.models.kernels.calls import note
from fcmae.models.kernels.choice import Impl, use_triton
from fcmae.models.kernels.grn_terms import response, scale_and_slope, sum_type
from fcmae.models.kernels.plain import differentiable_gradients, transforms_active


def gelu_grn(x: Tensor, gamma: Tensor, beta: Tensor, over_batch: bool = False, impl: Impl = "auto") -> Tensor:
    """Apply GELU, then GRN: (B, ..., C), (C,) and (C,) to (B, ..., C).

    Args:
        x: activations
        gamma, beta: GRN's weight and bias
        over_batch: normalise all images together, not each by itself
        impl: auto, or the implementation to insist on (`fcmae.models.kernels.choice`)

    Raises:
        ValueError: Triton is insisted on, and cannot run
    """
    note("gelu_grn", x)
    groups = x.flatten(0, -2)[None] if over_batch else x.flatten(1, -2)
    if use_triton(impl, x):
        from fcmae.models.kernels import grn_triton

        return grn_triton.gelu_grn(groups, gamma, beta).view(x.shape)
    return global_response_norm(F.gelu(groups), gamma, beta).view(x.shape)


def global_response_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Return gamma * (x * response) + beta + x; response is the norm over positions, over its channel mean.

    Args:
        x: (B, N, C); sums are taken in float32 or better
        gamma, beta: (C,)
    """
    if transforms_active():
        return plain_response_norm(x, gamma, beta)
    out: Tensor = _GlobalResponseNorm.apply(x, gamma, beta)
    return out


def plain_response_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Compute `global_response_norm` in plain PyTorch, which differentiates it as often as one likes."""
    norm = torch.linalg.vector_norm(x, dim=1, dtype=sum_type(x))
    scale = 1 + gamma * response(norm)
    return torch.addcmul(beta.to(x.dtype), x, scale[:, None].to(x.dtype))


class _GlobalResponseNorm(torch.autograd.Function):
    """GRN in PyTorch, with its gradient written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        norm = x.to(sum_type(x)).square().sum(1).sqrt()
        scale = 1 + gamma * response(norm)
        ctx.save_for_backward(x, gamma, beta, norm)
        return torch.addcmul(beta.to(x.dtype), x, scale[:, None].to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gamma, beta, norm = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_gradients(plain_response_norm, (x, gamma, beta), ctx.needs_input_grad, grad)
        grad_scale = (grad * x).sum(1, dtype=norm.dtype)
        scale, slope = scale_and_slope(grad_scale, gamma, norm)
        largest = torch.finfo(x.dtype).max  # a slope over a tiny norm can be beyond half precision
        scale, slope = (each[:, None].clamp(-largest, largest).to(x.dtype) for each in (scale, slope))
        grad_x = (grad * scale).addcmul_(x, slope)
        return grad_x, (grad_scale * response(norm)).sum(0), grad.sum((0, 1), dtype=norm.dtype)
