"""The linear layer as a product and as a convolution: one result, whichever a processor is faster at."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.models.kernels import pointwise as module
from fcmae.models.kernels.pointwise import FEWEST_MACS, FEWEST_ROWS, pointwise


def example(lead: tuple[int, ...], channels: int, out: int, bias: bool) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(*lead, channels), (out, channels)] + [(out,)] * bias
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes] + [None] * (
        not bias
    )


def results(inputs: list[Tensor | None], **options: Any) -> list[Tensor]:
    """Value and gradients, in float64."""
    out = pointwise(*inputs, **options)  # type: ignore[arg-type]
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    wanted = [each for each in inputs if each is not None]
    return [each.double() for each in (out, *torch.autograd.grad(out, wanted, direction))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("lead", "channels", "out"),
    [((2, 3, 4, 4), 40, 160), ((7,), 13, 5), ((1, 1), 1, 3), ((2, 1500), 24, 96)],
)
def test_a_convolution_is_the_linear_layer(
    lead: tuple[int, ...], channels: int, out: int, bias: bool
) -> None:
    inputs = example(lead, channels, out, bias)
    exact = results([None if each is None else each.detach().double().requires_grad_() for each in inputs])
    plain, ours = results(inputs, impl="linear"), results(inputs, impl="convolution")
    for own, theirs, truth in zip(ours, plain, exact, strict=True):
        assert (own - truth).norm() <= 2 * (theirs - truth).norm() + 1e-6 * truth.norm()


def test_a_convolution_takes_rows_that_are_not_contiguous() -> None:
    x = torch.randn(5, 4, 6).transpose(1, 2)
    weight = torch.randn(3, 4)
    torch.testing.assert_close(pointwise(x, weight, None, impl="convolution"), F.linear(x, weight))


@pytest.mark.parametrize(
    ("lags", "threads", "shape", "dtype", "expected"),
    [
        (True, 2, (1024,), torch.float32, "conv2d"),
        (False, 2, (1024,), torch.float32, "linear"),
        (True, 2, (512,), torch.float32, "linear"),  # little to compute
        (True, 2, (FEWEST_ROWS - 1,), torch.float32, "linear"),
        (True, 2, (1024,), torch.float64, "linear"),
        (True, 1, (1024,), torch.float32, "linear"),
        (True, 1, (16, 8, 8), torch.float32, "conv2d"),
        (True, 1, (15, 9, 8), torch.float32, "linear"),
    ],
)
def test_auto_convolves_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch,
    lags: bool,
    threads: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    expected: str,
) -> None:
    monkeypatch.setattr(module, "_MKL_LAGS", lags)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    called: list[str] = []

    def watch(name: str) -> None:
        original = getattr(F, name)

        def watched(*args: Any) -> Any:
            called.append(name)
            return original(*args)

        monkeypatch.setattr(F, name, watched)

    watch("conv2d")
    watch("linear")
    out = 1024 if shape == (FEWEST_ROWS - 1,) else FEWEST_MACS // 2**16  # much to compute in few rows
    pointwise(torch.randn(*shape, 64, dtype=dtype), torch.randn(out, 64, dtype=dtype), None)
    assert called == [expected]


def test_auto_leaves_other_types_to_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MKL_LAGS", True)
    x, weight = torch.randn(1024, 64, requires_grad=True), torch.randn(256, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = pointwise(x, weight, None)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad is not None


def test_an_export_does_not_depend_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MKL_LAGS", True)

    class Layer(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return pointwise(x, self.weight, self.bias)

    program = torch.export.export(Layer(64, 256), (torch.randn(1024, 64),))
    assert not any("conv" in str(node.target) for node in program.graph.nodes)


class Quantised(Tensor):
    """What a library's weights in few bits are to PyTorch: tensors of another class."""


def test_weights_of_another_class_stay_with_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MKL_LAGS", True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    x, weight = torch.randn(8192, 64), torch.randn(64, 64)
    assert module._suits_onednn(x, weight)
    assert module._suits_onednn(x, nn.Parameter(weight))
    assert not module._suits_onednn(x, weight.as_subclass(Quantised))
