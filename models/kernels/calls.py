"""What a network asks of the operations in this package, noted in a forward pass on tensors without data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fcmae.models.kernels.choice import kernels

OperationName = Literal["depthwise_tiles", "depthwise_map", "gelu_grn"]


@dataclass(frozen=True)
class Call:
    """One operation on activations of one shape.

    Args:
        operation: by its name
        height, width: of a dense map, or of a tile; 1 for gelu_grn, whose kernels do not depend on them
        channels: of its input
    """

    operation: OperationName
    height: int
    width: int
    channels: int


_noted: list[Call] | None = None  # a list while calls are recorded


def record_calls(module: nn.Module, *args: Any) -> list[Call]:
    """Return what a forward pass of a module asks for, each call once; nothing is computed.

    Args:
        module: on any device; its parameters and buffers are stood in for by tensors without data
        *args: of its forward, all tensors on the device "meta"
    """
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    state = {name: torch.empty_like(each, device="meta") for name, each in state.items()}
    # By the operations of PyTorch, which know what to do without data.
    with torch.no_grad(), kernels("torch"), _recording() as calls:
        functional_call(module, state, args)
    return list(dict.fromkeys(calls))


def note(operation: OperationName, x: Tensor, height: int = 1, width: int = 1) -> None:
    """Remember a call on activations x (..., C), if calls are recorded."""
    if _noted is not None:
        _noted.append(Call(operation, height, width, x.shape[-1]))


@contextmanager
def _recording() -> Iterator[list[Call]]:
    """Collect the calls that are noted within it."""
    global _noted
    before, _noted = _noted, []
    try:
        yield _noted
    finally:
        _noted = before
