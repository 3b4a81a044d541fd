"""Triton kernels of GELU followed by GRN: the fewest passes over the widest activations of the network.

Forward reads the pre-activation twice and writes the result once; backward reads pre-activation and gradient
twice and writes once. GELU is computed anew each time, which costs less than to store and read it.

Shapes: B groups that are normalised apart (images), N positions of each, C channels, S parts of a sum.
"""

# The bodies of the kernels are in Triton's language, which has no types.
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcmae.models.kernels.grn_terms import response, scale_and_slope

ROWS, CHANNELS = 32, 64  # of a block: lines of 128 bytes in half precision
SUMMED_ROWS = 512  # of a program that sums; the parts are added up in a fixed order


def gelu_grn(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Apply GELU, then GRN, to x (B, N, C), with gamma and beta (C,)."""
    out: Tensor = _GeluGRN.apply(x.contiguous(), gamma, beta)
    return out


class _GeluGRN(torch.autograd.Function):
    """Both in one operation, which saves what goes in and its norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        norm = square_sums(x).sqrt()
        ctx.save_for_backward(x, gamma, norm)
        out: Tensor = scale_gelu(x, 1 + gamma * response(norm), beta)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, gamma, norm = ctx.saved_tensors
        grad = grad.contiguous()
        grad_scale, grad_shift = gradient_sums(x, grad).unbind()
        scale, slope = scale_and_slope(grad_scale, gamma, norm)
        grad_x = gradient(x, grad, scale, slope)
        return grad_x, (grad_scale * response(norm)).sum(0), grad_shift.sum(0)


# To PyTorch's compiler a launch is one operation, which it neither looks into nor clones the inputs of.
@torch.library.custom_op("fcmae::gelu_square_sums", mutates_args=())
def square_sums(x: Tensor) -> Tensor:
    """Sum gelu(x)^2 over positions: (B, N, C) to (B, C) float32."""
    sums = x.new_empty(len(x), triton.cdiv(x.shape[1], SUMMED_ROWS), x.shape[2], dtype=torch.float32)
    with torch.cuda.device_of(x):
        _square_sums[_programs(x, SUMMED_ROWS)](
            x, sums, x.shape[1], C=x.shape[2], SUMMED_ROWS=SUMMED_ROWS, ROWS=ROWS, CHANNELS=CHANNELS
        )
    return sums.sum(1)


@square_sums.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(len(x), x.shape[2], dtype=torch.float32)


@torch.library.custom_op("fcmae::scale_gelu", mutates_args=())
def scale_gelu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return gelu(x) * scale + shift: (B, N, C), (B, C) and (C,) to (B, N, C) of x's type."""
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _scale_gelu[_programs(x, ROWS)](
            x, scale, shift, out, x.shape[1], C=x.shape[2], ROWS=ROWS, CHANNELS=CHANNELS
        )
    return out


@scale_gelu.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("fcmae::gelu_gradient_sums", mutates_args=())
def gradient_sums(x: Tensor, grad: Tensor) -> Tensor:
    """Sum grad * gelu(x), and grad, over positions: two (B, N, C) to (2, B, C) float32."""
    sums = x.new_empty(2, len(x), triton.cdiv(x.shape[1], SUMMED_ROWS), x.shape[2], dtype=torch.float32)
    with torch.cuda.device_of(x):
        _gradient_sums[_programs(x, SUMMED_ROWS)](
            x, grad, sums[0], sums[1], x.shape[1],
            C=x.shape[2], SUMMED_ROWS=SUMMED_ROWS, ROWS=ROWS, CHANNELS=CHANNELS,
        )  # fmt: skip
    return sums.sum(2)


@gradient_sums.register_fake
def _(x: Tensor, grad: Tensor) -> Tensor:
    return x.new_empty(2, len(x), x.shape[2], dtype=torch.float32)


@torch.library.custom_op("fcmae::scale_gelu_gradient", mutates_args=())
def gradient(x: Tensor, grad: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
    """Return gelu'(x) * (scale * grad + slope * gelu(x)), (B, N, C) of x's type; scale, slope are (B, C)."""
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _gradient[_programs(x, ROWS)](
            x, grad, scale, slope, out, x.shape[1], C=x.shape[2], ROWS=ROWS, CHANNELS=CHANNELS
        )
    return out


@gradient.register_fake
def _(x: Tensor, grad: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
    return torch.empty_like(x)


def _programs(x: Tensor, rows: int) -> tuple[int]:
    """Return the grid for x (B, N, C) in blocks of `rows`, in its one dimension that may pass 65535."""
    groups, positions, channels = x.shape
    return (groups * triton.cdiv(positions, rows) * triton.cdiv(channels, CHANNELS),)


@triton.jit
def _normal(x, EXACT: tl.constexpr):
    """Return the normal distribution's probability of less than x, and its density there.

    In half precision the probability is Abramowitz and Stegun's 7.1.26, off by 3e-7 at most, in fewer
    instructions than the error function: it takes its exponential from the density.
    """
    bell = tl.exp2(x * x * -0.7213475204444817)
    if EXACT:
        below = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
    else:
        t = 1 / tl.fma(tl.abs(x), 0.23164189, 1.0)
        series = tl.fma(t, 0.5307027145, -0.726576013)
        series = tl.fma(tl.fma(tl.fma(series, t, 0.7107068705), t, -0.142248368), t, 0.127414796)
        beyond = t * series * bell  # the probability of more than |x|
        below = tl.where(x > 0, 1 - beyond, beyond)
    return below, 0.3989422804014327 * bell


@triton.jit
def _gelu(x, EXACT: tl.constexpr):
    """Return x times the normal distribution's probability of less than x."""
    below, _ = _normal(x, EXACT)
    return x * below


@triton.jit
def _place(positions, rows: tl.constexpr, C: tl.constexpr, CHANNELS: tl.constexpr):
    """Return this program's group, its part of the positions, the parts of a group, and its channels."""
    BLOCKS: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    parts = tl.cdiv(positions, rows)
    at = tl.program_id(0) // BLOCKS
    return at // parts, at % parts, parts, tl.program_id(0) % BLOCKS * CHANNELS + tl.arange(0, CHANNELS)


@triton.jit
def _load(x, group, row, channel, positions, C: tl.constexpr):
    """Load the rows `row` of a group of x, in float32; 0 beyond the last row and channel."""
    inside = (row[:, None] < positions) & (channel < C)[None, :]
    at = (group * positions + row).to(tl.int64)[:, None] * C + channel[None, :]
    return tl.load(x + at, inside, 0.0).to(tl.float32)


@triton.jit
def _store(x, values, group, row, channel, positions, C: tl.constexpr):
    """Store the rows `row` of a group of x, in its type, but none beyond the last row and channel."""
    inside = (row[:, None] < positions) & (channel < C)[None, :]
    at = (group * positions + row).to(tl.int64)[:, None] * C + channel[None, :]
    tl.store(x + at, values.to(x.dtype.element_ty), inside)


@triton.jit(do_not_specialize=("positions",))  # one compiled kernel serves all
def _square_sums(
    x, sums, positions,
    C: tl.constexpr, SUMMED_ROWS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    EXACT: tl.constexpr = x.dtype.element_ty == tl.float32
    group, part, parts, channel = _place(positions, SUMMED_ROWS, C, CHANNELS)
    first = part * SUMMED_ROWS
    total = tl.full((ROWS, CHANNELS), 0.0, tl.float32)
    for start in range(first, tl.minimum(first + SUMMED_ROWS, positions), ROWS):
        value = _gelu(_load(x, group, start + tl.arange(0, ROWS), channel, positions, C), EXACT)
        total += value * value
    tl.store(sums + (group * parts + part) * C + channel, tl.sum(total, 0), channel < C)


@triton.jit(do_not_specialize=("positions",))  # one compiled kernel serves all
def _scale_gelu(
    x, scale, shift, out, positions, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    EXACT: tl.constexpr = x.dtype.element_ty == tl.float32
    group, part, _, channel = _place(positions, ROWS, C, CHANNELS)
    row = part * ROWS + tl.arange(0, ROWS)
    factor = tl.load(scale + group * C + channel, channel < C, 0.0).to(tl.float32)
    term = tl.load(shift + channel, channel < C, 0.0).to(tl.float32)
    value = _gelu(_load(x, group, row, channel, positions, C), EXACT) * factor[None, :] + term[None, :]
    _store(out, value, group, row, channel, positions, C)


@triton.jit(do_not_specialize=("positions",))  # one compiled kernel serves all
def _gradient_sums(
    x, grad, scale_sums, shift_sums, positions,
    C: tl.constexpr, SUMMED_ROWS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    EXACT: tl.constexpr = x.dtype.element_ty == tl.float32
    group, part, parts, channel = _place(positions, SUMMED_ROWS, C, CHANNELS)
    first = part * SUMMED_ROWS
    products = tl.full((ROWS, CHANNELS), 0.0, tl.float32)
    total = tl.full((ROWS, CHANNELS), 0.0, tl.float32)
    for start in range(first, tl.minimum(first + SUMMED_ROWS, positions), ROWS):
        row = start + tl.arange(0, ROWS)
        slope = _load(grad, group, row, channel, positions, C)
        products += slope * _gelu(_load(x, group, row, channel, positions, C), EXACT)
        total += slope
    at = (group * parts + part) * C + channel
    tl.store(scale_sums + at, tl.sum(products, 0), channel < C)
    tl.store(shift_sums + at, tl.sum(total, 0), channel < C)


@triton.jit(do_not_specialize=("positions",))  # one compiled kernel serves all
def _gradient(
    x, grad, scale, slope, out, positions, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    EXACT: tl.constexpr = x.dtype.element_ty == tl.float32
    group, part, _, channel = _place(positions, ROWS, C, CHANNELS)
    row = part * ROWS + tl.arange(0, ROWS)
    factor = tl.load(scale + group * C + channel, channel < C, 0.0)
    tilt = tl.load(slope + group * C + channel, channel < C, 0.0)
    value = _load(x, group, row, channel, positions, C)
    below, density = _normal(value, EXACT)
    outer = _load(grad, group, row, channel, positions, C) * factor[None, :] + value * below * tilt[None, :]
    _store(out, outer * (below + value * density), group, row, channel, positions, C)
