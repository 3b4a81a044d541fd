"""The Triton kernels of GELU and GRN, interpreted on the CPU or run on a GPU, against float64.

Shapes: B groups, N positions, C channels.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fcmae.models.kernels.choice import OLDEST_TRITON, Impl, triton_version
from fcmae.models.kernels.grn import gelu_grn

pytestmark = pytest.mark.skipif(
    (triton_version() or (0, 0)) < OLDEST_TRITON, reason="Triton is not installed, or too old"
)
Trace = Callable[[Callable[..., Tensor], list[Tensor]], list[list[str]]]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def example(shape: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x of this shape, gamma, beta, and a gradient of the output."""
    generator = torch.Generator().manual_seed(sum(shape))
    shapes = [shape, shape[-1:], shape[-1:], shape]
    return [torch.randn(each, generator=generator).to(DEVICE, dtype) for each in shapes]


def results(tensors: list[Tensor], impl: Impl) -> list[Tensor]:
    """The output and the gradients of x, gamma and beta, in float64 after they are computed."""
    inputs = [each.detach().clone().requires_grad_() for each in tensors[:3]]
    x, gamma, beta = inputs
    out = gelu_grn(x, gamma, beta, impl=impl)
    return [each.detach().double() for each in (out, *torch.autograd.grad(out, inputs, tensors[3]))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 76, 40), (1, 1, 80), (3, 19, 3), (1, 33, 130)])
def test_within_the_error_budget(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """At most twice as far from float64 as plain PyTorch in the same type, or a few roundings of float32.

    Interpreted, Triton cuts float32 off where a GPU rounds to the nearest bfloat16: a unit in the last place.
    """
    unit = torch.finfo(dtype).eps if DEVICE.type == "cpu" and dtype == torch.bfloat16 else 2e-6
    tensors = example(shape, dtype)
    exact = results([each.double() for each in tensors], "torch")
    plain, triton = results(tensors, "torch"), results(tensors, "triton")
    for name, ours, theirs, truth in zip(("out", "x", "gamma", "beta"), triton, plain, exact, strict=True):
        budget = 2 * (theirs - truth).abs().max() + unit * truth.abs().max()
        assert (ours - truth).abs().max() <= budget, name


def test_sums_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from fcmae.models.kernels import grn_triton

    tensors = example((2, 76, 8))
    whole = results(tensors, "triton")
    monkeypatch.setattr(grn_triton, "SUMMED_ROWS", 32)
    for ours, theirs in zip(results(tensors, "triton"), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_squares_that_overflow_half_precision_are_summed() -> None:
    x, gamma, beta, _ = example((1, 40, 8), torch.float16)
    out = gelu_grn(x * 300, gamma, beta, impl="triton")
    expected = gelu_grn((x * 300).double(), gamma.double(), beta.double(), impl="torch")
    torch.testing.assert_close(out.double(), expected, rtol=2e-3, atol=1e-2)


def test_half_precision_s_gelu_is_off_by_less_than_half_precision_can_tell() -> None:
    """Of one position, the sum of squares tells the value itself, and in float32."""
    from fcmae.models.kernels import grn_triton

    x = torch.linspace(-8, 8, 4096, device=DEVICE).half()
    sums = grn_triton.square_sums(x[None, None])
    error = (sums.double().sqrt() - torch.nn.functional.gelu(x.double()).abs()).abs()
    assert (error <= 3e-7 * x.double().abs().clamp_min(1)).all()


def test_a_silent_channel_has_finite_gradients() -> None:
    tensors = example((2, 6, 5))
    tensors[0][:, :, 2] = 0
    assert all(each.isfinite().all() for each in results(tensors, "triton"))


def test_only_the_pre_activation_is_stored() -> None:
    x, gamma, beta, _ = example((2, 76, 8))
    stored: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        stored.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        gelu_grn(x.requires_grad_(), gamma.requires_grad_(), beta.requires_grad_(), impl="triton")
    assert sum(number >= x.numel() for number in stored) == 1


def test_each_launch_is_one_operation_of_a_compiled_graph(trace: Trace) -> None:
    inputs = [each.requires_grad_() for each in example((2, 9, 8))[:3]]
    graphs = trace(lambda x, gamma, beta: gelu_grn(x, gamma, beta, impl="triton"), inputs)
    assert graphs == [["gelu_square_sums", "scale_gelu"], ["gelu_gradient_sums", "scale_gelu_gradient"]]


def test_a_grid_has_one_dimension_since_the_others_end_at_65535() -> None:
    from fcmae.models.kernels import grn_triton

    for shape in ((2**16, 1, 128), (1, 2**22, 128)):
        x = torch.empty(shape, device="meta")
        assert grn_triton._programs(x, 32) == (shape[0] * -(-shape[1] // 32) * 2,)
