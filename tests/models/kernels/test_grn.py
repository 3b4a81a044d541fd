"""GRN's written-out gradient against autograd through the formula.

Shapes: B groups, N positions, C channels.
"""

import pytest
import torch
from torch import Tensor

from fcmae.models.kernels.grn import global_response_norm


def formula(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """ConvNeXt V2, arXiv 2301.00808, algorithm 1."""
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    out: Tensor = gamma * (x * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + beta + x
    return out


def example(shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [shape, shape[-1:], shape[-1:]]
    tensors = [torch.randn(each, dtype=torch.float64, generator=generator) for each in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("shape", [(2, 6, 5), (1, 1, 3), (3, 7, 1)])
def test_values_and_gradients_are_the_formula_s(shape: tuple[int, int, int]) -> None:
    inputs = example(shape)
    out, expected = global_response_norm(*inputs), formula(*inputs)
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, direction)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, inputs, direction), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
def test_a_silent_channel_has_the_gradients_of_the_formula(dtype: torch.dtype, size: float) -> None:
    inputs = example((2, 6, 5), dtype)
    with torch.no_grad():
        inputs[0][:, :, 2] = 0
    exact = [each.detach().double().requires_grad_() for each in inputs]
    out, expected = global_response_norm(*inputs), formula(*exact)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype) * size
    ours = torch.autograd.grad(out, inputs, direction)
    theirs = torch.autograd.grad(expected, exact, direction.double())
    for one, other in zip(ours, theirs, strict=True):
        assert (one.double() - other).norm() <= 8 * torch.finfo(dtype).eps * other.norm()


def test_a_nearly_silent_channel_has_finite_gradients_in_half_precision() -> None:
    inputs = example((2, 6, 5), torch.float16)
    with torch.no_grad():
        inputs[0][:, :, 2] = 6e-8  # the smallest number there is
    out = global_response_norm(*inputs)
    gradients = torch.autograd.grad(out, inputs, torch.full_like(out, 100))
    assert all(each.isfinite().all() for each in gradients)


def test_half_precision_sums_where_squares_would_overflow() -> None:
    """The squares of 1000 positions of 300 are far beyond the largest half-precision number, 65504."""
    x = torch.full((1, 1000, 4), 300.0, dtype=torch.float16)
    out = global_response_norm(x, torch.ones(4), torch.zeros(4))
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, 2 * x)
