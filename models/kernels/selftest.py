"""A self-test of the Triton kernels on the device at hand, before a run trusts them with its gradients.

A new GPU, driver or Triton may fail to compile a kernel or, worse, compile it wrongly. A run that takes days
finds out in its first minute, and goes on with PyTorch's operations. Only what its network calls is tested: a
kernel is compiled for each number of channels, once on a machine, and takes its time.
"""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.models.kernels.calls import Call, record_calls
from fcmae.models.kernels.choice import do_without, use_triton
from fcmae.models.kernels.depthwise import depthwise_map, depthwise_tiles, map_tile
from fcmae.models.kernels.grn import gelu_grn

Operation = Callable[..., Tensor]  # of an Impl and the inputs
Example = tuple[nn.Module, tuple[Any, ...]]  # a module, and arguments of its forward without data
BUDGET = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
SLOW = 3.0  # seconds from which a self-test says what it waits for

logger = logging.getLogger(__name__)


def self_test(device: torch.device, dtype: torch.dtype, examples: Iterable[Example]) -> bool:
    """Test the kernels that networks call, where kernels run at all, as `check_calls` does.

    Args:
        device: where the run computes
        dtype: type of its activations
        examples: modules, each with the arguments of a forward pass, of tensors on the device "meta"

    Returns:
        whether kernels are called, and will be used
    """
    examples = list(examples)
    if not examples or not use_triton("auto", torch.empty(0, device=device, dtype=dtype)):
        return False
    calls = [call for module, args in examples for call in record_calls(module, *args)]
    return check_calls(device, dtype, calls)


def check_calls(device: torch.device, dtype: torch.dtype, calls: Iterable[Call]) -> bool:
    """Compare kernels with PyTorch once, value and gradients; where one is off, do without all of them.

    Args:
        device: where the run computes, on which kernels run
        dtype: type of its activations
        calls: what is tested; calls that PyTorch computes are passed over

    Returns:
        whether the kernels will be used
    """
    started, said = time.monotonic(), False
    todo = dict.fromkeys(call for call in calls if tile_of(call))
    for call in sorted(todo, key=tile_of):  # the quick ones first, so that it is soon said what is slow
        run, inputs = prepare(call, device, dtype)
        try:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                error = _difference(run, inputs)
        except Exception as failure:  # whatever a compiler or driver raises
            do_without(f"the kernel {call.operation} failed its self-test ({type(failure).__name__})")
            return False
        if not error < BUDGET[dtype]:
            do_without(f"the kernel {call.operation} failed its self-test (off by {error:.1e})")
            return False
        if not said and time.monotonic() - started > SLOW:
            logger.warning("compiling kernels for this network and GPU: once on a machine, a minute or more")
            said = True
    return True


def tile_of(call: Call) -> int:
    """Return the side of the tiles that a kernel walks over: 1 for gelu_grn, 0 where PyTorch computes."""
    return map_tile(call.height, call.width) if call.operation == "depthwise_map" else call.height


def prepare(
    call: Call, device: torch.device, dtype: torch.dtype, parameters: torch.dtype = torch.float32
) -> tuple[Operation, list[Tensor]]:
    """Make a small example of a call: the operation, and its inputs, activations first.

    Args:
        call: what is called
        device: of the inputs
        dtype: of activations
        parameters: their type
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = parameters) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    channels = call.channels
    if call.operation == "gelu_grn":
        inputs = [draw(2, 50, channels, dtype=dtype), draw(channels), draw(channels)]
        return lambda impl, x, gamma, beta: gelu_grn(x, gamma, beta, impl=impl), inputs
    # Of a map, one row of tiles: the kernel is that of the whole map.
    side = tile_of(call)
    inputs = [draw(2, side, call.width, channels, dtype=dtype), draw(channels, 1, 7, 7), draw(channels)]
    if call.operation == "depthwise_map":
        return lambda impl, x, weight, bias: depthwise_map(x, weight, bias, impl), inputs
    table = _neighbours(side).to(device)
    return lambda impl, x, weight, bias: depthwise_tiles(x, weight, bias, table, impl), inputs


def _neighbours(side: int) -> Tensor:
    """Return the table of `depthwise_tiles` for two tiles beside each other, (2, side + 6, side + 6)."""
    rows = torch.arange(2 * side**2).view(2, side, side).transpose(0, 1).reshape(side, 2 * side)
    rows = F.pad(rows, (3, 3, 3, 3), value=2 * side**2)
    return rows.unfold(1, side + 6, side).transpose(0, 1)


def _difference(run: Operation, inputs: list[Tensor]) -> float:
    """Return the largest difference of values and gradients, relative to the largest of each."""
    results = []
    for impl in ("torch", "triton"):
        out = run(impl, *inputs)
        slope = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float32).view_as(out)
        grads = torch.autograd.grad((out.float() * slope).sum(), inputs)
        results.append([each.detach().double() for each in (out, *grads)])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True))
