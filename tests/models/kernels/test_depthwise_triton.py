"""The Triton kernels of the depthwise convolution, interpreted on the CPU or run on a GPU, against float64.

Shapes: B batch, V visible patches, p tile side, C channels, H W positions of a map.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fcmae.models.kernels.choice import OLDEST_TRITON, Impl, kernels, triton_version
from fcmae.models.kernels.depthwise import depthwise_map, depthwise_tiles
from fcmae.models.layouts.tiles import TilesLayout
from fcmae.models.mask import Mask

pytestmark = pytest.mark.skipif(
    (triton_version() or (0, 0)) < OLDEST_TRITON, reason="Triton is not installed, or too old"
)
Trace = Callable[[Callable[..., Tensor], list[Tensor]], list[list[str]]]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def example(shape: tuple[int, ...], kernel: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x of this shape, weight, bias, and a gradient of the output."""
    generator = torch.Generator().manual_seed(sum(shape))
    shapes = [shape, (shape[-1], 1, kernel, kernel), shape[-1:], shape]
    return [torch.randn(each, generator=generator).to(DEVICE, dtype) for each in shapes]


def halo_table(batch: int, grid: tuple[int, int], num_visible: int, p: int, kernel: int) -> Tensor:
    """The table of random visible patches, as the layout makes it."""
    generator = torch.Generator().manual_seed(num_visible)
    order = torch.rand(batch, grid[0] * grid[1], generator=generator).argsort(1)
    mask = Mask(order[:, :num_visible].sort(1).values, grid).to(DEVICE)
    return TilesLayout(mask)._halo_table(p, kernel)


def results(tensors: list[Tensor], table: Tensor | None, impl: Impl) -> list[Tensor]:
    """The output and the gradients of x, weight and bias, in float64 after they are computed."""
    x, weight, bias = (each.detach().clone().requires_grad_() for each in tensors[:3])
    if table is None:
        out = depthwise_map(x, weight, bias, impl)
    else:
        out = depthwise_tiles(x, weight, bias, table, impl)
    gradients = torch.autograd.grad(out, (x, weight, bias), tensors[3])
    return [each.detach().double() for each in (out, *gradients)]


def assert_within_budget(tensors: list[Tensor], table: Tensor | None = None) -> None:
    """At most twice as far from float64 as plain PyTorch in the same type, or a few roundings of float32.

    Interpreted, Triton cuts float32 off where a GPU rounds to the nearest bfloat16: a unit in the last place.
    """
    dtype = tensors[0].dtype
    unit = torch.finfo(dtype).eps if DEVICE.type == "cpu" and dtype == torch.bfloat16 else 2e-6
    exact = results([each.double() for each in tensors], table, "torch")
    plain, triton = results(tensors, table, "torch"), results(tensors, table, "triton")
    for name, ours, theirs, truth in zip(("out", "x", "weight", "bias"), triton, plain, exact, strict=True):
        budget = 2 * (theirs - truth).abs().max() + unit * truth.abs().max()
        assert (ours - truth).abs().max() <= budget, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("p", "num_visible", "channels"), [(1, 3, 5), (2, 4, 40), (2, 6, 64), (4, 2, 40), (8, 2, 5)]
)
def test_tiles(p: int, num_visible: int, channels: int, dtype: torch.dtype) -> None:
    table = halo_table(1, (2, 3), num_visible, p, kernel=7)
    assert_within_budget(example((1, num_visible, p, p, channels), 7, dtype), table)


@pytest.mark.parametrize("kernel", [3, 5])
def test_other_kernels(kernel: int) -> None:
    assert_within_budget(example((2, 4, 4, 4, 3), kernel), halo_table(2, (2, 3), 4, 4, kernel))


def test_one_visible_tile_of_a_batch_of_images() -> None:
    assert_within_budget(example((5, 1, 2, 2, 3), 7), halo_table(5, (3, 3), 1, 2, 7))


@pytest.mark.parametrize("size", [(8, 4), (7, 14), (5, 5)])
def test_dense_maps(size: tuple[int, int]) -> None:
    assert_within_budget(example((2, *size, 3), 7))


def test_more_programs_than_one_sum_the_weight_s_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from fcmae.models.kernels import depthwise_triton

    monkeypatch.setattr(depthwise_triton, "PARTIAL_SUMS", 3)
    assert_within_budget(example((2, 5, 2, 2, 3), 7), halo_table(2, (2, 3), 5, 2, 7))


def test_hidden_positions_are_never_read() -> None:
    """The halo table names them by a row that does not exist: nothing can leak, whatever is there."""
    tensors, table = example((1, 2, 2, 2, 3), 7), halo_table(1, (2, 3), 2, 2, 7)
    before = results(tensors, table, "triton")
    padded = torch.full((3, 2, 2, 3), torch.nan, device=DEVICE)
    padded[:2] = tensors[0][0]
    tensors[0] = padded[None, :2]
    for one, other in zip(before, results(tensors, table, "triton"), strict=True):
        assert torch.equal(one, other)


def test_a_missing_bias_and_unwanted_gradients() -> None:
    (x, weight, _, direction), table = example((1, 3, 2, 2, 3), 7), halo_table(1, (2, 3), 3, 2, 7)
    gradients = []
    for impl in ("triton", "torch"):
        out = depthwise_tiles(x.requires_grad_(), weight, None, table, impl)
        gradients.append(torch.autograd.grad(out, x, direction)[0])
    torch.testing.assert_close(*gradients)


def test_autocast_computes_in_its_type_and_returns_gradients_in_the_parameters() -> None:
    (x, weight, bias, _), table = example((1, 3, 2, 2, 3), 7), halo_table(1, (2, 3), 3, 2, 7)
    inputs = [each.requires_grad_() for each in (x, weight, bias)]
    with torch.autocast(DEVICE.type, torch.bfloat16):
        out = depthwise_tiles(x, weight, bias, table, "triton")
    expected = depthwise_tiles(x.bfloat16().double(), weight.double(), bias.double(), table, "torch")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, rtol=2**-7, atol=1e-6)
    assert {each.dtype for each in torch.autograd.grad(out.float().sum(), inputs)} == {torch.float32}


@pytest.mark.parametrize("tiles", [True, False])
def test_each_launch_is_one_operation_of_a_compiled_graph(tiles: bool, trace: Trace) -> None:
    table = halo_table(1, (2, 3), 3, 2, 7)
    inputs = [each.requires_grad_() for each in example((1, 3, 2, 2, 3) if tiles else (2, 4, 4, 3), 7)[:3]]

    def operation(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if tiles:
            return depthwise_tiles(x, weight, bias, table, "triton")
        return depthwise_map(x, weight, bias, "triton")

    assert trace(operation, inputs) == [
        ["depthwise"],
        ["depthwise", "depthwise_weight_gradient"],
    ]


def test_a_map_that_the_kernel_does_not_take_breaks_no_graph(trace: Trace) -> None:
    inputs = [each.requires_grad_() for each in example((1, 11, 11, 2), 7)[:3]]
    with kernels("triton"):
        assert trace(lambda *tensors: depthwise_map(*tensors), inputs) == [[], []]


def test_a_grid_has_one_dimension_since_the_others_end_at_65535() -> None:
    from fcmae.models.kernels import depthwise_triton

    assert depthwise_triton._programs(channels=96, lanes=32, blocks=2**20, units=4) == (3 * 2**18,)


@pytest.mark.slow
def test_compiled_for_a_gpu_nothing_is_multiplied_that_need_not_be() -> None:
    """A tile of 2 x 2 has 4 outputs of 49 taps; the compiler is to fuse all, and to add none for the walk."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_DEFAULT_FP_FUSION": "0"}
    command = [sys.executable, str(Path(__file__).with_name("hopper.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    varying = ["blocks", "cols", "rows", "units"]  # with the batch; they are to compile no kernel anew
    expected = {"_convolve": 4 * 49, "_weight_gradient": 4 * 49, "varying": [varying, varying]}
    assert json.loads(done.stdout) == expected
