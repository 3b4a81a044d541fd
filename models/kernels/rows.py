"""Moving rows between a full table and a part of it: each direction is the other's gradient.

PyTorch's own gradient of `index_select` is `index_add`, which must assume that a row may be taken twice. Here
no row is, so that both directions are a plain copy.

Shapes: N rows of the part, M rows of the full table, C channels.
"""

from typing import Any

import torch
from torch import Tensor

from fcmae.models.kernels.plain import transforms_active


def scatter_rows(x: Tensor, rows: Tensor, size: int) -> Tensor:
    """Put the rows x (N, C) at the places `rows` (N,) int64, all different, of a table (size, C) of zeros."""
    if transforms_active():
        return x.new_zeros(size, x.shape[1]).index_copy(0, rows, x)
    out: Tensor = _ScatterRows.apply(x, rows, size)
    return out


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Take the rows (N,) int64, all different, of a table (M, C): (N, C)."""
    if transforms_active():
        return table.index_select(0, rows)
    out: Tensor = _GatherRows.apply(table, rows)
    return out


class _ScatterRows(torch.autograd.Function):
    """Rows into a table of zeros; the gradient takes them out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(size, x.shape[1]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return gather_rows(grad, rows), None, None


class _GatherRows(torch.autograd.Function):
    """Rows out of a table; the gradient puts them into one of zeros."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.size = table.shape[0]
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return scatter_rows(grad, rows, ctx.size), None
