"""When PyTorch's own operations stand in for gradients that are written by hand.

A hand-written gradient knows one thing: reverse mode, once. `torch.func` and forward mode want more, and are
given the same operation in plain PyTorch. So is a gradient that is itself differentiated, and a trace for
TorchScript, which would hold a call of Python and could not be saved.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transforms_active() -> bool:
    """Return whether `torch.func` (grad, vmap, jvp), forward mode or a trace for TorchScript is at work."""
    if torch.compiler.is_compiling():
        return False
    if tracing_torchscript():
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def tracing_torchscript() -> bool:
    """Return whether `torch.jit.trace` is at work: sizes are tensors then, and comparing them warns."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def differentiable_gradients(
    operation: Callable[..., Tensor], inputs: Sequence[Any], wanted: Sequence[bool], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a plain operation as functions of its inputs, to be differentiated again.

    Args:
        operation: in plain PyTorch, of the inputs
        inputs: tensors as the operation was given them, and whatever else it takes
        wanted: for each input, whether its gradient is needed
        grad: of the operation's output
    """
    with torch.enable_grad():
        out = operation(*inputs)
        sought = [each for each, is_wanted in zip(inputs, wanted, strict=True) if is_wanted]
        found = iter(torch.autograd.grad(out, sought, grad, create_graph=True))
    return tuple(next(found) if is_wanted else None for is_wanted in wanted)
