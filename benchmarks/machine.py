"""What a machine can do at most, measured on it: the ceilings that other figures are held against."""

import argparse
import datetime
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from fcmae.engine.precision import AUTOCAST_DTYPES
from fcmae.models.kernels.pointwise import pointwise

HEAD_START = 4_000_000  # cycles, about two milliseconds


def common_parser(doc: str, **defaults: Any) -> argparse.ArgumentParser:
    """The options of every benchmark of a network.

    Args:
        doc: the script's docstring; its first line is shown
        **defaults: where they are not those of a small network on a CPU
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--model", default="convnextv2_atto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--mask-ratio", type=float, default=0.6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=20)
    parser.set_defaults(**defaults)
    return parser


def set_up(options: argparse.Namespace) -> torch.device:
    """Threads as asked for, and cuDNN's fastest algorithms; the device."""
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    return torch.device(options.device)


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
    return 2 * side**3 / median_seconds(lambda: pointwise(a, b, None), device)


def copy_rate(device: torch.device) -> float:
    """Bytes per second of a large copy, read and written."""
    source = torch.randn(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """Median time of a run after two warm-ups; on a GPU by its own events, with a cold cache."""
    time_once = _gpu_seconds(device) if device.type == "cuda" else _cpu_seconds
    return statistics.median([time_once(run) for _ in range(2 + repeats)][2:])


def _cpu_seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _gpu_seconds(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """A clock of what the GPU does in a run, but not of the host: a kernel may take less than its launch."""
    cache = torch.empty(2**28, dtype=torch.uint8, device=device)

    def time_once(run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache.zero_()
        torch.cuda._sleep(HEAD_START)  # the GPU waits until the whole run is in its queue
        start.record()
        run()
        end.record()
        end.synchronize()
        milliseconds: float = start.elapsed_time(end)
        return 1e-3 * milliseconds

    return time_once
