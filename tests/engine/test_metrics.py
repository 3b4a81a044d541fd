"""Metrics of steps: the fraction of time that is spent on waiting for data, told and warned of once."""

import logging
from typing import Any

import pytest
import torch

from fcmae.engine.metrics import DataClock, StepLog, StepMetrics


class Listener:
    """A logger and a display that keep what they are given."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def log(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def update(self, *_: Any) -> None:
        pass


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only where a test says so."""
    clock = [0.0]
    monkeypatch.setattr("fcmae.engine.metrics.time.monotonic", lambda: clock[0])
    return clock


def test_waiting_is_logged_and_warned_of_once(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    log = StepLog(listener, listener, scaler, 8, 4, torch.device("cpu"), lambda _: None)  # type: ignore[arg-type]

    def take_step(wait: float, work: float) -> None:
        with log.data_clock.waiting():
            now[0] += wait
        now[0] += work
        log.add(StepMetrics(len(listener.records) + 1, 0.1, [], {"loss": torch.tensor(1.0)}))
        values = log.pending[0].values
        values["grad_norm"] = torch.tensor(1.0)
        log.read()

    with caplog.at_level(logging.WARNING):
        take_step(60, 1)  # the readers start
        for _ in range(3):
            take_step(1, 9)  # a tenth
        assert not caplog.records
        for _ in range(8):
            take_step(6, 4)
    fractions = [record["data_wait"] for record in listener.records]
    assert fractions == pytest.approx([60 / 61, *[0.1] * 3, *[0.6] * 8])
    [warning] = caplog.messages
    assert "60%" in warning
    assert "--images.workers" in warning


def test_on_a_gpu_only_what_it_idles_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        """An event of a GPU that is busy until 5 and idle afterwards; the host asks at 0, 3, 4 and 9."""

        asked = iter([0.0, 3.0, 4.0, 9.0])

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.reached = max(5.0, next(self.asked))

        def elapsed_time(self, end: "Event") -> float:
            return 1e3 * (end.reached - self.reached)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = DataClock(torch.device("cuda"))
    for _ in range(2):
        with clock.waiting():
            pass
    assert clock.read() == pytest.approx(4.0)
    assert clock.read() == 0
