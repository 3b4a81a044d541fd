"""The depthwise convolution of tiles against torch's own on the dense map.

Shapes: B batch, V visible patches, p tile side, k kernel side, C channels, h w patches.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.models.kernels.depthwise import depthwise_tiles

GRID = (3, 4)


def places(visible: Tensor, p: int) -> list[tuple[int, slice, slice]]:
    """Where each visible tile is in the dense map: image, rows, columns."""
    corners = [
        (b, n // GRID[1] * p, n % GRID[1] * p) for b in range(len(visible)) for n in visible[b].tolist()
    ]
    return [(b, slice(y, y + p), slice(x, x + p)) for b, y, x in corners]


def halo_table(visible: Tensor, p: int, k: int) -> Tensor:
    """The table that `depthwise_tiles` takes, by cutting windows out of a padded map of row numbers."""
    count, r = visible.numel() * p * p, k // 2
    numbers = torch.full((len(visible), GRID[0] * p, GRID[1] * p), count)
    for i, place in enumerate(places(visible, p)):
        numbers[place] = torch.arange(p * p).view(p, p) + i * p * p
    numbers = F.pad(numbers, (r, r, r, r), value=count)
    windows = [
        numbers[b, ys.start : ys.stop + 2 * r, xs.start : xs.stop + 2 * r] for b, ys, xs in places(visible, p)
    ]
    return torch.stack(windows)


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, visible: Tensor) -> Tensor:
    """The same convolution on a dense map with zeros at hidden positions, (B, V, p, p, C)."""
    batch, _, p, _, channels = x.shape
    full = x.new_zeros(batch, GRID[0] * p, GRID[1] * p, channels)
    for tile, place in zip(x.flatten(0, 1), places(visible, p), strict=True):
        full[place] = tile
    out = F.conv2d(
        full.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=channels
    ).permute(0, 2, 3, 1)
    return torch.stack([out[place] for place in places(visible, p)]).view_as(x)


def example(p: int, k: int, num_visible: int = 5, channels: int = 3) -> tuple[Tensor, list[Tensor]]:
    """Visible patches (2, V), and x, weight and bias that want gradients, in float64."""
    generator = torch.Generator().manual_seed(p * k + num_visible)
    visible = torch.rand(2, GRID[0] * GRID[1], generator=generator).argsort(1)[:, :num_visible].sort(1)[0]
    shapes = [(2, num_visible, p, p, channels), (channels, 1, k, k), (channels,)]
    tensors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    return visible, [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("num_visible", [1, 5, 12])
@pytest.mark.parametrize("k", [3, 7])
@pytest.mark.parametrize("p", [2, 4, 8])
def test_values_and_gradients_are_the_dense_ones(p: int, k: int, num_visible: int) -> None:
    visible, inputs = example(p, k, num_visible)
    x, weight, bias = inputs
    out = depthwise_tiles(x, weight, bias, halo_table(visible, p, k))
    expected = dense(x, weight, bias, visible)
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, direction)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, inputs, direction), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_by_finite_differences() -> None:
    visible, inputs = example(2, 3, num_visible=2, channels=2)
    table = halo_table(visible, 2, 3)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return depthwise_tiles(x, weight, bias, table)

    assert torch.autograd.gradcheck(convolve, inputs)


def test_a_bias_is_optional_and_only_wanted_gradients_are_made() -> None:
    visible, (x, weight, _) = example(4, 7)
    out = depthwise_tiles(x, weight.detach(), None, halo_table(visible, 4, 7))
    expected = dense(x, weight.detach(), None, visible)
    torch.testing.assert_close(out, expected)
    direction = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(each, x, direction)[0] for each in (out, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_gradient_in_any_memory_order_will_do() -> None:
    visible, inputs = example(4, 3)
    x, weight, bias = inputs
    out = depthwise_tiles(x, weight, bias, halo_table(visible, 4, 3))
    direction = torch.randn_like(out)
    scattered = direction.transpose(2, 4).contiguous().transpose(2, 4)
    assert not scattered.is_contiguous()
    for one, other in zip(
        torch.autograd.grad(out, inputs, direction, retain_graph=True),
        torch.autograd.grad(out, inputs, scattered),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_autocast_computes_in_its_type_and_returns_gradients_in_the_parameters() -> None:
    visible, inputs = example(4, 7)
    x, weight, bias = (tensor.detach().float().requires_grad_() for tensor in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_tiles(x, weight, bias, halo_table(visible, 4, 7))
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().sum(), (x, weight, bias))
    assert {each.dtype for each in gradients} == {torch.float32}
