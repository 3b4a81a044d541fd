"""`fcmae export`: what it refuses."""

import pytest

from tests.launch.toys import refusal

WEIGHTS = "--weights=weights.safetensors"
pytestmark = pytest.mark.usefixtures("trained")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([WEIGHTS, "--out=x", "--format=caffe"], "caffe"),
        ([WEIGHTS, "--out=x.pt", "--format=torch"], "end in .pt2"),
        ([WEIGHTS, "--out=data"], "exists already"),
    ],
)
def test_options_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "export", *argv)
