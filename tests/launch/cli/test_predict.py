"""`fcmae predict`: what it refuses."""

import pytest

from tests.launch.toys import refusal

WEIGHTS = "--weights=weights.safetensors"
pytestmark = pytest.mark.usefixtures("trained")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([WEIGHTS, "--images=nowhere"], "does not exist"),
        ([WEIGHTS, "--images=data", "--out=no/x"], "no does not exist"),
        ([WEIGHTS, "--images=data", "--topk=0"], "--topk is 0"),
        ([WEIGHTS, "--images=data", "--workers=-1"], "--workers is -1"),
        (["--images=data"], "weights"),
    ],
)
def test_options_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "predict", *argv)


def test_several_processes_would_write_one_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "in one process, not in 2" in refusal(capsys, "predict", WEIGHTS, "--images=data")
