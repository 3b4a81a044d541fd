"""Which implementation of an operation runs: a Triton kernel, or plain PyTorch.

The rule of `impl="auto"`: Triton for tensors on an NVIDIA GPU, where Triton is installed and recent, the GPU
has the tensor's type, and the kernel takes the shape; else PyTorch, and on a GPU one line of the log says
why. `impl="triton"` and `impl="torch"` insist.
"""

import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Impl = Literal["auto", "triton", "torch"]
OLDEST_TRITON = (3, 4)  # earlier ones cannot carry tuples through loops
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

logger = logging.getLogger(__name__)
_preferred: Impl = "auto"
_given_up: str | None = None
_said: set[str] = set()


@contextmanager
def kernels(impl: Impl) -> Iterator[None]:
    """Let `auto` be `impl` where that can run, within a block: to compare the kernels of a whole network."""
    global _preferred
    before, _preferred = _preferred, impl
    try:
        yield
    finally:
        _preferred = before


def do_without(reason: str | None) -> None:
    """Run PyTorch in place of Triton from now on in this process; without a reason, trust Triton again."""
    global _given_up
    _given_up = reason


def use_triton(impl: Impl, x: Tensor, refusal: Callable[[], str | None] | None = None) -> bool:
    """Return whether the Triton kernel runs on x.

    Args:
        impl: what was asked for
        x: the operation's input
        refusal: why the kernel does not take these shapes, where it does not

    Raises:
        ValueError: Triton was insisted on, and cannot run
    """
    wish = _preferred if impl == "auto" else impl
    if wish == "torch" or (wish == "auto" and x.device.type != "cuda"):
        return False
    reason = (refusal() if refusal else None) or _given_up or _hindrance(x.device, x.dtype)
    if reason is not None and impl == "triton":
        raise ValueError(f"impl='triton': {reason}; use impl='auto' or 'torch'")
    if reason is not None:
        _say_once(reason)
    return reason is None


def autocast_type(x: Tensor) -> torch.dtype | None:
    """Return the type that autocast gives products and convolutions on x's device; None where it is off."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


@torch.compiler.assume_constant_result
def _hindrance(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why no Triton kernel can run on tensors of this device and type, or None where they can."""
    version = triton_version()
    if version is None:
        return "Triton is not installed (pip install triton)"
    if version < OLDEST_TRITON:
        return f"Triton {version[0]}.{version[1]} is older than {OLDEST_TRITON[0]}.{OLDEST_TRITON[1]}"
    if dtype not in DTYPES:
        return f"the kernels do not take {dtype}"
    if device.type == "cuda":
        if torch.version.cuda is None:
            return "the kernels are written for NVIDIA GPUs"
        if dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) < (8, 0):
            return f"{torch.cuda.get_device_name(device)} has no bfloat16"
    elif os.environ.get("TRITON_INTERPRET") != "1":
        return f"Triton runs on {device.type} only as an interpreter (TRITON_INTERPRET=1)"
    return None


def triton_version() -> tuple[int, int] | None:
    """Return Triton's major and minor version, or None where it is not installed."""
    try:
        major, minor = importlib.metadata.version("triton").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        return None
    return int(major), int(minor)


@torch.compiler.assume_constant_result  # a cache around it would be traced through, up to the logger
def _say_once(reason: str) -> None:
    """Log why kernels are done without, at its first time in this process."""
    if reason not in _said:
        _said.add(reason)
        logger.warning("slower PyTorch operations stand in for Triton kernels: %s", reason)
