"""What is shown of work that takes long, where standard error is a file."""

import time

import pytest

from fcmae.data import progress_bar
from fcmae.data.progress_bar import progress


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Counting", 10, "images") as advance:
        advance(10)
    assert capsys.readouterr().err == ""


def test_long_work_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "SECONDS_TO_FIRST_LINE", 0.05)
    monkeypatch.setattr(progress_bar, "SECONDS_BETWEEN_LINES", 0.1)
    with progress("Listing x", 3e9, "GB", 1e9) as advance:
        time.sleep(0.15)
        advance(1.5e9)
        advance(1.5e9)
    assert capsys.readouterr().err.splitlines() == ["Listing x: 0.0 of 3.0 GB", "Listing x: 1.5 of 3.0 GB"]
