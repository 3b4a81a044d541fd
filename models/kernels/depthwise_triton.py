"""Triton kernels of the depthwise convolution: a block of outputs in registers, each input read once for it.

On a GPU a 7 x 7 depthwise convolution is bound by its 49 multiply-adds as much as by memory, so whatever is
not a multiply-add has to be rare. A thread keeps the 49 taps of a channel and up to 49 outputs in registers
and walks through the tile and its neighbours: a visible position is loaded once and added to all outputs that
it reaches, a hidden neighbour is passed over, multiply-adds and all. The gradient of the weight is the same
walk, with the taps as the sums and the gradients of the outputs as the factors.

Shapes: x (..., h, w, C) is N rows of C channels, cut into T tiles of P x P; K kernel side, H = K // 2. With a
table, h = w = P and the table knows the neighbours; without one, tiles are neighbours within their map.
"""

# The bodies of the kernels are in Triton's language, which has neither types nor unpacking.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005

from math import isqrt
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

UNITS = {1: 16, 2: 16}  # blocks of a program by tile side: enough to make loading the taps a small part
NUMBERS = ("blocks", "units", "rows", "cols")  # one compiled kernel serves all values of these
PARTIAL_SUMS = 1024  # programs that sum the weight's gradient: they fill a large GPU and their sums are few


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor | None, side: int) -> Tensor:
    """Convolve tiles depthwise, summing in float32.

    Args:
        x: (..., h, w, C)
        weight: (C, 1, K, K)
        bias: (C,)
        table: (T, q, q) int64 for q = P + K - 1, the row at each position of a tile and its halo; N is a zero
        side: P
    """
    table = None if table is None else table.contiguous()
    out: Tensor = _Depthwise.apply(x.contiguous(), weight, bias, table, side)
    return out


class _Depthwise(torch.autograd.Function):
    """The convolution, whose gradient by x is the same kernel with the taps turned round."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor | None, side: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight, table)
        ctx.side, ctx.bias_dtype = side, None if bias is None else bias.dtype
        out: Tensor = convolve(x, _taps(weight, bias), table, side)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, table = ctx.saved_tensors
        grad, side = grad.contiguous(), ctx.side
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = convolve(grad, _taps(weight.flip(2, 3), None), table, side)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            sums = weight_gradient(x, grad, table, side, weight.shape[-1])
            grad_weight = sums[:-1].t().reshape(weight.shape).to(weight.dtype)
            grad_bias = None if ctx.bias_dtype is None else sums[-1].to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _taps(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return (C, 1, K, K) and (C,) as (K * K + 1, C) float32: neighbouring threads read neighbouring numbers.

    The last row is the bias, or 0 without one, so that one compiled kernel serves forward and backward.
    """
    taps = weight.flatten(1).t().float()
    last = taps.new_zeros(1, len(weight)) if bias is None else bias.float()[None]
    return torch.cat([taps, last])


# To PyTorch's compiler a launch is one operation, which it neither looks into nor clones the inputs of.
@torch.library.custom_op("fcmae::depthwise", mutates_args=())
def convolve(x: Tensor, taps: Tensor, table: Tensor | None, side: int) -> Tensor:
    """Convolve x (..., h, w, C) with taps (K * K + 1, C) float32, the last of them the bias: (..., h, w, C).

    Args:
        table, side: as for `depthwise`
    """
    out = torch.empty_like(x)
    (height, width, channels), block = x.shape[-3:], _block(side)
    blocks = x.numel() // (channels * block * side)
    units, lanes = UNITS.get(side, 4), _lanes(side, channels)
    with torch.cuda.device_of(x):
        _convolve[_programs(channels, lanes, blocks, units)](
            x, taps, out, table, blocks, units, height // side, width // side,
            PITCH=width, C=channels, P=side, BLOCK=block, K=isqrt(len(taps)), LANES=lanes, num_warps=1,
        )  # fmt: skip
    return out


@convolve.register_fake
def _(x: Tensor, taps: Tensor, table: Tensor | None, side: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("fcmae::depthwise_weight_gradient", mutates_args=())
def weight_gradient(x: Tensor, grad: Tensor, table: Tensor | None, side: int, kernel: int) -> Tensor:
    """Return the gradients of the taps and, last, of the bias: (K * K + 1, C) float32, alike in every run.

    Args:
        x, grad: (..., h, w, C), the input, and the gradient of the output
        table, side: as for `depthwise`
        kernel: K
    """
    (height, width, channels), block = x.shape[-3:], _block(side)
    blocks = x.numel() // (channels * block * side)
    lanes = _lanes(side, channels)
    units = triton.cdiv(blocks, max(PARTIAL_SUMS // triton.cdiv(channels, lanes), 1))
    partial = x.new_empty(triton.cdiv(blocks, units), kernel**2 + 1, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_gradient[_programs(channels, lanes, blocks, units)](
            x, grad, partial, table, blocks, units, height // side, width // side,
            PITCH=width, C=channels, P=side, BLOCK=block, K=kernel, LANES=lanes, num_warps=1,
        )  # fmt: skip
    return partial.sum(0)


@weight_gradient.register_fake
def _(x: Tensor, grad: Tensor, table: Tensor | None, side: int, kernel: int) -> Tensor:
    return x.new_empty(kernel**2 + 1, x.shape[-1], dtype=torch.float32)


def _programs(channels: int, lanes: int, blocks: int, units: int) -> tuple[int]:
    """Return the grid, in its one dimension that may pass 65535: groups of channels vary fastest."""
    return (triton.cdiv(channels, lanes) * triton.cdiv(blocks, units),)


def _block(side: int) -> int:
    """Return the rows of a tile that a thread holds: half of 8 x 8, so that registers hold sums and taps."""
    return 4 if side == 8 else side


def _lanes(side: int, channels: int) -> int:
    """Return the channels of a warp, which is a program: two to a thread where they fit and no lane idles."""
    return 64 if side <= 4 and channels % 64 == 0 else 32


@triton.jit(do_not_specialize=NUMBERS)
def _convolve(
    x, taps, out, table, blocks, units, rows, cols,
    PITCH: tl.constexpr, C: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Convolve `units` blocks of BLOCK x P positions, for LANES channels."""
    H: tl.constexpr = K // 2
    UP: tl.constexpr = (H + BLOCK - 1) // BLOCK  # neighbouring blocks on each side that reach this one
    LEFT: tl.constexpr = (H + P - 1) // P
    GROUPS: tl.constexpr = (C + LANES - 1) // LANES
    channel = tl.program_id(0) % GROUPS * LANES + tl.arange(0, LANES)
    exists = channel < C
    factors = ()
    for tap in tl.static_range(K * K):
        factors = factors + (tl.load(taps + tap * C + channel, exists, 0.0),)
    bias = tl.load(taps + K * K * C + channel, exists, 0.0)
    first = tl.program_id(0) // GROUPS * units
    for unit in range(first, tl.minimum(first + units, blocks)):
        sums = (bias,) * (BLOCK * P)
        places = _find_all(table, unit, blocks, rows, cols, PITCH, P, BLOCK, H, UP, LEFT)
        for up in tl.static_range(-UP, UP + 1):
            for left in tl.static_range(-LEFT, LEFT + 1):
                row = places[(up + UP) * (2 * LEFT + 1) + left + LEFT]
                if row >= 0:
                    origin = x + row.to(tl.int64) * C + channel
                    for i in tl.static_range(BLOCK):
                        if up * BLOCK + i >= -H and up * BLOCK + i < BLOCK + H:
                            values = _load_row(origin + i * PITCH * C, exists, left, C, P, H)
                            sums = _add_outputs(sums, values, factors, up * BLOCK + i, left * P, BLOCK, P, K)
        row = _find(table, unit, 0, 0, blocks, rows, cols, PITCH, P, BLOCK, H)
        origin = out + row.to(tl.int64) * C + channel
        for i in tl.static_range(BLOCK):
            for j in tl.static_range(P):
                tl.store(origin + (i * PITCH + j) * C, sums[i * P + j].to(out.dtype.element_ty), exists)


@triton.jit(do_not_specialize=NUMBERS)
def _weight_gradient(
    x, grad, partial, table, blocks, units, rows, cols,
    PITCH: tl.constexpr, C: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr, K: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Sum the gradients of taps and bias over `units` blocks of BLOCK x P positions, for LANES channels."""
    H: tl.constexpr = K // 2
    UP: tl.constexpr = (H + BLOCK - 1) // BLOCK
    LEFT: tl.constexpr = (H + P - 1) // P
    GROUPS: tl.constexpr = (C + LANES - 1) // LANES
    channel = tl.program_id(0) % GROUPS * LANES + tl.arange(0, LANES)
    exists = channel < C
    zero = tl.full((LANES,), 0.0, tl.float32)
    sums, total = (zero,) * (K * K), zero
    first = tl.program_id(0) // GROUPS * units
    for unit in range(first, tl.minimum(first + units, blocks)):
        row = _find(table, unit, 0, 0, blocks, rows, cols, PITCH, P, BLOCK, H)
        origin = grad + row.to(tl.int64) * C + channel
        factors = ()
        for i in tl.static_range(BLOCK):
            factors = factors + _load_row(origin + i * PITCH * C, exists, 0, C, P, H)
        for i in tl.static_range(BLOCK * P):
            total += factors[i]
        places = _find_all(table, unit, blocks, rows, cols, PITCH, P, BLOCK, H, UP, LEFT)
        for up in tl.static_range(-UP, UP + 1):
            for left in tl.static_range(-LEFT, LEFT + 1):
                row = places[(up + UP) * (2 * LEFT + 1) + left + LEFT]
                if row >= 0:
                    origin = x + row.to(tl.int64) * C + channel
                    for i in tl.static_range(BLOCK):
                        if up * BLOCK + i >= -H and up * BLOCK + i < BLOCK + H:
                            values = _load_row(origin + i * PITCH * C, exists, left, C, P, H)
                            sums = _add_taps(sums, values, factors, up * BLOCK + i, left * P, BLOCK, P, K)
    at = partial + tl.program_id(0) // GROUPS * (K * K + 1) * C + channel
    for tap in tl.static_range(K * K):
        tl.store(at + tap * C, sums[tap], exists)
    tl.store(at + K * K * C, total, exists)


@triton.jit
def _find_all(
    table, unit, blocks, rows, cols,
    PITCH: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr, H: tl.constexpr,
    UP: tl.constexpr, LEFT: tl.constexpr,
):  # fmt: skip
    """Find where a block's neighbours begin, row by row: all are looked up before the first is waited for."""
    places = ()
    for up in tl.static_range(-UP, UP + 1):
        for left in tl.static_range(-LEFT, LEFT + 1):
            places = places + (_find(table, unit, up, left, blocks, rows, cols, PITCH, P, BLOCK, H),)
    return places


@triton.jit
def _find(
    table, unit, up: tl.constexpr, left: tl.constexpr, blocks, rows, cols,
    PITCH: tl.constexpr, P: tl.constexpr, BLOCK: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    """Find the row at which the block `up` blocks and `left` tiles away begins; -1 if none is there."""
    SPLIT: tl.constexpr = P // BLOCK
    tile, part = unit // SPLIT, unit % SPLIT + up
    down = (part + SPLIT * P) // SPLIT - P  # tiles below; the sum keeps the division's operands positive
    part -= down * SPLIT
    if table is None:
        y, x = tile // cols % rows + down, tile % cols + left
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < cols)
        corner = (tile // (rows * cols) * rows + y) * P * PITCH + x * P
    else:  # of the neighbour's positions, look up the one that is nearest
        y, x = tl.where(down < 0, P - 1, 0), P - 1 if left < 0 else 0
        Q: tl.constexpr = P + 2 * H
        corner = tl.load(table + (tile * Q + H + down * P + y) * Q + H + left * P + x)
        inside = corner < blocks * (BLOCK * P)
        corner -= y * PITCH + x
    return tl.where(inside, corner + part * BLOCK * PITCH, -1)


@triton.jit
def _load_row(origin, exists, left: tl.constexpr, C: tl.constexpr, P: tl.constexpr, H: tl.constexpr):
    """Load a row of the tile `left` tiles away: P vectors of channels, 0 for those that are out of reach."""
    values = ()
    for j in tl.static_range(P):
        if left * P + j >= -H and left * P + j < P + H:
            values = values + (tl.load(origin + j * C, exists, 0.0).to(tl.float32),)
        else:
            values = values + (0.0,)
    return values


@triton.jit
def _add_outputs(
    sums, values, taps,
    Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Add a row of inputs, the first of them at (Y, X), to those of the BLOCK x P outputs that it reaches."""
    H: tl.constexpr = K // 2
    new = ()
    for i in tl.static_range(BLOCK):
        for j in tl.static_range(P):
            total = sums[i * P + j]
            if Y - i <= H and i - Y <= H:
                for b in tl.static_range(K):  # tap b joins output j and the input at j + b - H
                    if j + b - H >= X and j + b - H < X + P:
                        total = tl.fma(values[j + b - H - X], taps[(Y - i + H) * K + b], total)
            new = new + (total,)
    return new


@triton.jit
def _add_taps(
    sums, values, grads,
    Y: tl.constexpr, X: tl.constexpr, BLOCK: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """Add a row of inputs, the first of them at (Y, X), times the gradients they meet to the taps between."""
    H: tl.constexpr = K // 2
    new = ()
    for a in tl.static_range(K):
        for b in tl.static_range(K):
            total = sums[a * K + b]
            if Y - a + H >= 0 and Y - a + H < BLOCK:
                for j in tl.static_range(P):
                    if j + b - H >= X and j + b - H < X + P:
                        total = tl.fma(values[j + b - H - X], grads[(Y - a + H) * P + j], total)
            new = new + (total,)
    return new
