"""The device a run computes on: its name, read without torch, and the device itself."""

import ctypes
import re
import sys
from typing import TYPE_CHECKING

from fcmae.core.errors import UserError

if TYPE_CHECKING:
    import torch

DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?|mps")


def check_device_name(name: str) -> None:
    """Refuse what is not the name of a device of this kind of machine.

    Raises:
        UserError: unknown name, or mps away from macOS
    """
    if not DEVICE.fullmatch(name):
        raise UserError(f"--device {name}: unknown device; use auto, cpu, cuda, cuda:N or mps")
    if name == "mps" and sys.platform != "darwin":
        raise UserError("--device mps: only macOS has it; use --device cpu or auto")


def check_device(name: str) -> None:
    """Refuse an unknown device, and one this machine cannot have; what torch makes of it is checked later.

    Raises:
        UserError: unknown name, or CUDA on a machine without its driver
    """
    check_device_name(name)
    if name.startswith("cuda") and sys.platform == "linux":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise UserError(
                f"--device {name}: this machine has no CUDA driver (libcuda.so.1); use --device cpu or auto"
            ) from None


def count_gpus() -> int:
    """Return how many CUDA devices this process is shown, asking the driver and not torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def pick_device(name: str) -> "torch.device":
    """Turn a device's name into a device that is really there; a GPU that is named becomes the current one.

    Args:
        name: auto (cuda where there is one, else mps, else cpu), cpu, cuda, cuda:N or mps

    Raises:
        UserError: the name is unknown or the device is absent
    """
    import torch  # here, so that a name is checked before that takes seconds

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device_name(name)
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UserError(f"--device {name}: no CUDA device is visible here; use --device cpu")
        if (device.index or 0) >= count:
            raise UserError(f"--device {name}: the CUDA devices here are cuda:0 to cuda:{count - 1}")
        if device.index is not None:
            torch.cuda.set_device(device)  # else what names no device, a kernel say, would run on cuda:0
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: no MPS device is available here; use --device cpu")
    return device
