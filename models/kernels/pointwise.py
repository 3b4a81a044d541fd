"""A linear layer over channels, by the faster of the two libraries that PyTorch has for it on a CPU.

In float32 PyTorch leaves products to MKL and convolutions to oneDNN. On an AMD processor with AVX-512, MKL
comes to half of oneDNN's speed, so that a convolution of one by one is the faster product; the times are in
docs/performance.md, from `benchmarks/pointwise.py`. Everywhere else this is `torch.nn.functional.linear`.

Shapes: C channels in, D channels out.
"""

from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.models.kernels.choice import autocast_type
from fcmae.models.kernels.plain import differentiable_gradients, tracing_torchscript, transforms_active

FEWEST_MACS = 2**23  # multiply-adds from which the convolution's set-up pays
FEWEST_ROWS = 256  # from which it pays to rearrange the weight first
FEWEST_IMAGES = 16  # with one thread PyTorch leaves smaller batches to its own convolution, which is slow


def pointwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, impl: Literal["auto", "linear", "convolution"] = "auto"
) -> Tensor:
    """Return x @ weight.T + bias: (..., C), (D, C) and (D,) to (..., D).

    Args:
        x, weight, bias: of any floating type
        impl: auto decides by processor, type and size, and exports a linear layer everywhere
    """
    if impl == "auto":
        impl = "convolution" if _MKL_LAGS and _suits_onednn(x, weight) else "linear"
    if impl == "linear" or transforms_active():
        return F.linear(x, weight, bias)
    # As in a picture: a side of one leaves channels-last ambiguous, and compiled code would copy.
    rows = x.flatten(2, -2) if x.ndim > 3 else x.reshape(*(1, *x.shape[:-1])[-2:], 1, x.shape[-1])
    pictures = rows.permute(0, 3, 1, 2)
    out: Tensor = _Convolution.apply(pictures, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    """Return whether a product is of the type and size that oneDNN is the faster at."""
    if torch.compiler.is_exporting() or tracing_torchscript():  # first: what comes of it has any batch
        return False
    if not x.is_cpu or x.dtype != torch.float32 or autocast_type(x) is not None:
        return False
    if type(weight) not in (Tensor, nn.Parameter):  # quantised ones and the like know linear layers alone
        return False
    if x.numel() * weight.shape[0] < FEWEST_MACS or x.numel() < FEWEST_ROWS * x.shape[-1]:
        return False
    return _num_threads() > 1 or (x.ndim > 3 and len(x) >= FEWEST_IMAGES)


@torch.compiler.assume_constant_result  # compiled code would break off here
def _num_threads() -> int:
    return torch.get_num_threads()


class _Convolution(torch.autograd.Function):
    """One by one, with the bias' gradient summed by PyTorch: oneDNN adds row to row, and loses a digit."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return F.conv2d(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_gradients(F.conv2d, (x, weight, bias), ctx.needs_input_grad, grad)
        *others, wants_bias = ctx.needs_input_grad
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [*others, False]
        )
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if wants_bias else None


def _mkl_lags() -> bool:
    """Return whether this is an AMD processor with AVX-512, and PyTorch has both libraries."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    cpuinfo = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not cpuinfo.exists():
        return False
    with cpuinfo.open() as file:
        return any("AuthenticAMD" in line for line in islice(file, 5))  # one line of the first processor's


_MKL_LAGS = _mkl_lags()
