"""The terms of GRN on numbers for each image and channel, which all its implementations share.

GRN (ConvNeXt V2, arXiv 2301.00808, section 3.3) multiplies x by 1 + gamma * response and adds beta.

Shapes: B images that are normalised apart, C channels.
"""

import torch
from torch import Tensor


def sum_type(x: Tensor) -> torch.dtype:
    """Return the type to sum squares of x in: at least float32, since squares overflow half precision."""
    return torch.promote_types(x.dtype, torch.float32)


def channel_mean(norm: Tensor) -> Tensor:
    """Return the mean over channels (B, C) to (B, 1), and a little, so that it divides.

    That little is written out because torch.compile(dynamic=True) makes a variable of a global float, and
    fails over it in an autograd function.
    """
    return norm.mean(-1, keepdim=True) + 1e-6


def response(norm: Tensor) -> Tensor:
    """Divide each channel's norm (B, C) by the mean over its image's channels."""
    return norm / channel_mean(norm)


def scale_and_slope(grad_scale: Tensor, gamma: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two factors (B, C) of the gradient of x, which is scale * grad + slope * x.

    Args:
        grad_scale: (B, C), the sum of grad * x over positions
        gamma: (C,)
        norm: (B, C)
    """
    grad_response = grad_scale * gamma
    mean = channel_mean(norm)
    # response = norm / mean: through the numerator, and through the mean that all channels share
    shared = (grad_response * norm).sum(-1, keepdim=True) / (mean.square() * norm.shape[-1])
    grad_norm = grad_response / mean - shared
    slope = torch.where(norm > 0, grad_norm / norm, 0)  # of norm by x is x / norm, 0 at 0
    return 1 + gamma * norm / mean, slope
