"""A trial of the Triton kernels on the device at hand, before a run trusts them with its gradients.

A new GPU, driver or Triton may fail to compile a kernel or, worse, compile it wrongly. A run that takes days
finds out in its first seconds, and goes on with PyTorch's operations.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.choice import Impl, do_without, use_triton
from models.kernels.depthwise import depthwise_map, depthwise_tiles
from models.kernels.grn import gelu_grn

Operation = Callable[..., Tensor]  # of an Impl and the inputs
# Sides and channels: one channel to a thread, and not a warp full; then two; then whole tiles as neighbours.
TILES = ((8, 40), (4, 64), (2, 64), (1, 64))
MAPS = ((8, 16), (4, 12), (7, 14))  # heights and widths that divide into tiles of 8, 4 and 7
BUDGET = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def try_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Compare every kernel with PyTorch once, value and gradients; where one is off, do without all of them.

    Args:
        device: where the run computes
        dtype: type of its activations

    Returns:
        whether the kernels will be used
    """
    for name, run, inputs in _cases(device, dtype):
        if not use_triton("auto", inputs[0]):
            return False
        try:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                error = _difference(run, inputs)
        except Exception as failure:  # whatever a compiler or driver raises
            do_without(f"the kernel {name} failed its trial ({type(failure).__name__})")
            return False
        if not error < BUDGET[dtype]:
            do_without(f"the kernel {name} failed its trial (off by {error:.1e})")
            return False
    return True


def _cases(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Operation, list[Tensor]]]:
    """Kernels with what they are tried on: activations of this type, parameters in float32."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    inputs = [draw(2, 50, 40, dtype=dtype), draw(40), draw(40)]
    yield "gelu_grn", lambda impl, x, gamma, beta: gelu_grn(x, gamma, beta, impl=impl), inputs
    for height, width in MAPS:
        inputs = [draw(2, height, width, 40, dtype=dtype), draw(40, 1, 7, 7), draw(40)]
        yield "depthwise_map", lambda impl, x, weight, bias: depthwise_map(x, weight, bias, impl), inputs
    for side, channels in TILES:
        table = _neighbours(side).to(device)

        def over_tiles(impl: Impl, x: Tensor, weight: Tensor, bias: Tensor, table: Tensor = table) -> Tensor:
            return depthwise_tiles(x, weight, bias, table, impl)

        inputs = [draw(2, side, side, channels, dtype=dtype), draw(channels, 1, 7, 7), draw(channels)]
        yield "depthwise_tiles", over_tiles, inputs


def _neighbours(side: int) -> Tensor:
    """The table of `depthwise_tiles` for two tiles beside each other, (2, side + 6, side + 6)."""
    rows = torch.arange(2 * side**2).view(2, side, side).transpose(0, 1).reshape(side, 2 * side)
    rows = F.pad(rows, (3, 3, 3, 3), value=2 * side**2)
    return rows.unfold(1, side + 6, side).transpose(0, 1)


def _difference(run: Operation, inputs: list[Tensor]) -> float:
    """Largest difference of values and gradients between the two, relative to the largest of each."""
    results = []
    for impl in ("torch", "triton"):
        out = run(impl, *inputs)
        slope = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float32).view_as(out)
        grads = torch.autograd.grad((out.float() * slope).sum(), inputs)
        results.append([each.detach().double() for each in (out, *grads)])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True))
