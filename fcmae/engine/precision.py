"""The device a run computes on, and the arithmetic it computes in."""

import torch

from fcmae.engine.errors import UserError
from fcmae.engine.preflight import check_device_name

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Turn a device's name into a device that is really there; a GPU that is named becomes the current one.

    Args:
        name: auto (cuda where there is one, else mps, else cpu), cpu, cuda, cuda:N or mps

    Raises:
        UserError: the name is unknown or the device is absent
    """
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


def choose_precision(precision: str, device: torch.device) -> str:
    """`auto` as bf16 on a GPU whose matrix units take it (compute capability 8.0 and later), else float32."""
    if precision != "auto":
        return precision
    has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if has_bf16 else "float32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context of a forward pass in float32 (no autocast), bf16 or fp16."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling for fp16, whose small gradients would vanish; passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
