"""Peak memory of a piece of work, beyond what was held before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """Megabytes that a second run needs at its peak: on a GPU exactly, on a CPU as Linux counts its pages."""
    run()  # the first one makes what stays: the optimiser's state, compiled code
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # so that what earlier work freed is not taken for this one's
    CLEAR.write_text("5", encoding="ascii")  # set the high-water mark back
    before = _kilobytes("VmRSS")
    run()
    return (_kilobytes("VmHWM") - before) / 2**10


def _kilobytes(field: str) -> int:
    """A figure of this process's memory (Linux)."""
    return int(STATUS.read_text(encoding="ascii").partition(f"{field}:")[2].split()[0])
