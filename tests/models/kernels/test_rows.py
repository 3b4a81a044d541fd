"""Scattering and gathering rows: inverse to each other, and each the other's gradient.

Shapes: N rows of the part, M rows of the full table, C channels.
"""

import torch

from fcmae.models.kernels.rows import gather_rows, scatter_rows

ROWS = torch.tensor([6, 0, 3, 4])


def test_scatter_puts_rows_into_zeros_and_gather_takes_them_out() -> None:
    x = torch.randn(4, 3)
    table = scatter_rows(x, ROWS, 8)
    expected = torch.zeros(8, 3)
    for row, place in zip(x, ROWS.tolist(), strict=True):
        expected[place] = row
    assert torch.equal(table, expected)
    assert torch.equal(gather_rows(table, ROWS), x)


def test_gradients_are_those_of_torch_s_own_indexing() -> None:
    part = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    table = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: scatter_rows(x, ROWS, 8), part)
    assert torch.autograd.gradcheck(lambda x: gather_rows(x, ROWS), table)
    direction = torch.randn(4, 3, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad(taken, table, direction)[0] for taken in (gather_rows(table, ROWS), table[ROWS])
    )
    assert torch.equal(ours, theirs)


def test_second_derivatives() -> None:
    part = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: scatter_rows(x, ROWS, 8).square(), part)
