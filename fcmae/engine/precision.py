"""The arithmetic that a run computes in: float32, or autocast to half precision."""

import torch

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(precision: str, device: torch.device) -> str:
    """Return the precision meant: `auto` is bf16 on a GPU whose matrix units take it, from 8.0 on."""
    if precision != "auto":
        return precision
    has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if has_bf16 else "float32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass in float32 (no autocast), bf16 or fp16."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return a loss scaler for fp16, whose small gradients would vanish; otherwise it changes nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
