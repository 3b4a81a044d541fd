"""Hand-written gradients give way to PyTorch's own where more is asked of them than reverse mode, once."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap

from fcmae.models.kernels import pointwise as pointwise_module
from fcmae.models.kernels.depthwise import depthwise_map, depthwise_tiles
from fcmae.models.kernels.grn import gelu_grn
from fcmae.models.kernels.pointwise import pointwise
from fcmae.models.kernels.rows import gather_rows, scatter_rows

Operation = Callable[..., Tensor]
ROWS = torch.tensor([4, 0, 2])
SIDE, KERNEL = 2, 3
# Two tiles beside each other, each with its halo; 8 stands for a zero outside.
BESIDE = F.pad(torch.arange(8).view(2, 2, 2).transpose(0, 1).reshape(2, 4), (1, 1, 1, 1), value=8)
TABLE = BESIDE.unfold(1, SIDE + 2, SIDE).transpose(0, 1)


def tiles(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return depthwise_tiles(x, weight, bias, TABLE, "torch")


def no_tiles(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return depthwise_tiles(x, weight, bias, TABLE[:0], "torch")


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return pointwise(x, weight, bias, "convolution")


def gelu_grn_over_batch(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return gelu_grn(x, gamma, beta, over_batch=True)


OPERATIONS: dict[str, tuple[Operation, list[tuple[int, ...]]]] = {
    "gelu_grn": (gelu_grn, [(2, 3, 2, 4), (4,), (4,)]),
    "gelu_grn, over the batch": (gelu_grn_over_batch, [(2, 3, 4), (4,), (4,)]),
    "depthwise_tiles": (tiles, [(1, 2, SIDE, SIDE, 3), (3, 1, KERNEL, KERNEL), (3,)]),
    "depthwise_map": (depthwise_map, [(1, 5, 3, 2), (2, 1, KERNEL, KERNEL), (2,)]),
    "pointwise": (convolution, [(2, 3, 2, 3), (4, 3), (4,)]),
    "gather_rows": (lambda table: gather_rows(table, ROWS), [(5, 2)]),
    "scatter_rows": (lambda x: scatter_rows(x, ROWS, 5), [(3, 2)]),
}
each = pytest.mark.parametrize(("operation", "shapes"), OPERATIONS.values(), ids=list(OPERATIONS))


def draw(shapes: list[tuple[int, ...]], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@each
def test_gradients_and_their_gradients_are_those_of_finite_differences(
    operation: Operation, shapes: list[tuple[int, ...]]
) -> None:
    inputs = [each.requires_grad_() for each in draw(shapes)]
    assert torch.autograd.gradcheck(operation, inputs)
    assert torch.autograd.gradgradcheck(operation, inputs)


@each
def test_functional_gradients_equal_autograd_s(operation: Operation, shapes: list[tuple[int, ...]]) -> None:
    inputs = draw(shapes)

    def score(*inputs: Tensor) -> Tensor:
        return operation(*inputs).square().sum()

    found = grad(score, argnums=tuple(range(len(inputs))))(*inputs)
    leaves = [each.clone().requires_grad_() for each in inputs]
    torch.testing.assert_close(found, torch.autograd.grad(score(*leaves), leaves))


@each
def test_forward_mode_equals_reverse_mode(operation: Operation, shapes: list[tuple[int, ...]]) -> None:
    inputs, directions = tuple(draw(shapes)), tuple(draw(shapes, seed=1))
    forward = jvp(operation, inputs, directions)[1]
    jacobians = jacrev(operation, argnums=tuple(range(len(inputs))))(*inputs)
    pairs = zip(jacobians, directions, strict=True)
    reverse = [torch.tensordot(jacobian, direction, direction.ndim) for jacobian, direction in pairs]
    torch.testing.assert_close(forward, torch.stack(reverse).sum(0))


@each
def test_vmap_equals_a_loop(operation: Operation, shapes: list[tuple[int, ...]]) -> None:
    stacked = [torch.stack(pair) for pair in zip(draw(shapes), draw(shapes, seed=1), strict=True)]
    one_by_one = torch.stack([operation(*(each[i] for each in stacked)) for i in range(2)])
    torch.testing.assert_close(vmap(operation)(*stacked), one_by_one)


@pytest.mark.parametrize("name", ["gelu_grn", "depthwise_tiles", "depthwise_map", "pointwise"])
def test_nothing_is_too_few(name: str) -> None:
    operation, [first, *others] = OPERATIONS[name]
    if name == "depthwise_tiles":
        operation = no_tiles
    inputs = [torch.zeros(0, *first[1:]), *(each.float() for each in draw(others))]
    assert operation(*inputs).shape == inputs[0].shape[:-1] + inputs[-1].shape


def test_linear_layers_run_as_convolutions_and_under_transforms_as_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pointwise_module, "_MKL_LAGS", True)
    monkeypatch.setattr(pointwise_module, "FEWEST_MACS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    taken: list[str] = []

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        taken.append("convolution")
        return F.conv2d(x, weight, bias)

    monkeypatch.setattr(pointwise_module._Convolution, "apply", convolve)
    x, weight = torch.randn(1, 40, 40, 4), torch.randn(4, 4)
    expected = pointwise(x, weight, None)
    assert taken == ["convolution"]
    torch.testing.assert_close(vmap(lambda x: pointwise(x, weight, None))(x), expected)
    assert taken == ["convolution"]
