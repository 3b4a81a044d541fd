"""What a person sees of a run that goes on."""

import io
import time

import pytest
from rich.console import Console

from fcmae.engine.display import ProgressDisplay, format_duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_now_and_then_and_at_the_end(clock: list[float]) -> None:
    output = io.StringIO()
    with ProgressDisplay(100, 10, Console(file=output, width=200)) as display:
        for step in range(1, 101):
            clock[0] += 1.0
            display.update(step, 1.0 / step, 64.0)
    lines = output.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        f"step {step}/100" for step in (1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100)
    ]
    assert lines[1] == "epoch 2/10  step 11/100  loss 0.0909  64 images/s  1:29 left"


def test_time_left_counts_only_what_this_process_did(clock: list[float]) -> None:
    output = io.StringIO()
    display = ProgressDisplay(100, 10, Console(file=output, width=200))
    clock[0] += 30.0
    display.start_at(90)
    with display:
        clock[0] += 60.0
        display.update(95, 1.0, 64.0)
    first, second = output.getvalue().splitlines()
    assert first == "going on after step 90 of 100"
    assert second.endswith("1:00 left")


def test_terminal_shows_a_bar_with_the_metrics() -> None:
    output = io.StringIO()
    with ProgressDisplay(100, 10, Console(file=output, width=100, force_terminal=True)) as display:
        display.update(50, 0.75, 64.0)
    for text in ("epoch 5/10", "50/100", "loss 0.7500", "64 images/s"):
        assert text in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (725, "12:05"), (11220, "3:07:00")]
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
