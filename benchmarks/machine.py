"""What a machine can do at most, measured on it: the ceilings that other figures are held against."""

import datetime
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from fcmae.engine.precision import AUTOCAST_DTYPES


def describe(device: torch.device) -> dict[str, Any]:
    """What a figure must be read with: device, versions, threads, date."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "timm")}
    if device.type == "cuda":
        versions["triton"] = importlib.metadata.version("triton")
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {"device": name, **versions, "date": datetime.date.today().isoformat()}


def dtype_of(precision: str) -> torch.dtype:
    """The type that products are computed in."""
    return AUTOCAST_DTYPES.get(precision, torch.float32)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large product of random matrices."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, device)


def copy_rate(device: torch.device) -> float:
    """Bytes per second of a large copy, read and written."""
    source = torch.randn(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median time of a run after two warm-ups; on a GPU by its own events, with a cold cache."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return 1e-3 * float(do_bench(run, return_mode="median"))
    seconds = []
    for _ in range(2 + repeats):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])
