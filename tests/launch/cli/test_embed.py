"""`fcmae embed`: what it refuses."""

import pytest

from tests.launch.toys import refusal

WEIGHTS = "--weights=weights.safetensors"
pytestmark = pytest.mark.usefixtures("trained")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([WEIGHTS, "--images=weights.safetensors"], "is a file"),
        ([WEIGHTS, "--images=data", "--batch-size=0"], "at least 1"),
        ([WEIGHTS, "--images=data", "--out=f.csv"], ".npz or .parquet"),
        ([WEIGHTS, "--images=data", "--precision=bf8"], "bf8"),
    ],
)
def test_options_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "embed", *argv)
