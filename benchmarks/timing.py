"""Timing several ways of doing the same thing: alternating runs, medians, ratios with their spread."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a list of numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def time_side_by_side(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run of each way. They take turns: a slow moment of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warmup + repeats):
        for name, run in ways.items():
            started = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= warmup:
                seconds[name].append(clock() - started)
    return seconds


def ratios(slow: list[float], fast: list[float]) -> Spread:
    """How many times as fast, turn by turn."""
    return Spread.of([a / b for a, b in zip(slow, fast, strict=True)])
