"""`fcmae reconstruct`: what it refuses, and what its help says."""

from pathlib import Path

import pytest

from tests.launch.toys import help_of, refusal, squeezed


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["images", "--images", "images"], "images is not the folder of a run"),
        (["run", "--images", "nowhere"], "nowhere does not exist"),
        (["run", "--images", "images", "--out", "no/p.png"], "the folder no does not exist"),
        (["run", "--images", "images"], "run holds no checkpoint yet"),
        (["run"], "required: images"),
        (["run", "--images", "images", "--device", "gpu"], "--device gpu: unknown device"),
        (["run", "--images", "images", "--count", "0"], "--count is 0: it must be at least 1"),
    ],
)
def test_what_cannot_be_drawn(
    started_run: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in refusal(capsys, "reconstruct", *argv)


def test_help_says_what_a_reconstruction_takes_from_the_original(capsys: pytest.CaptureFixture[str]) -> None:
    told = squeezed(help_of(capsys, "reconstruct"))
    assert squeezed("each hidden patch its own mean and standard deviation") in told
