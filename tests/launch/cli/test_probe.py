"""`fcmae probe`: what it refuses, and the picture that it points to."""

import pytest

from fcmae.launch.cli.main import main
from tests.launch.toys import refusal

WEIGHTS = "--weights=weights.safetensors"
pytestmark = pytest.mark.usefixtures("trained")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([WEIGHTS, "--neighbors=0"], "--neighbors is 0"),
        ([WEIGHTS, "--batch-size=0"], "at least 1"),
        ([WEIGHTS, "--val-fraction=1"], "a fraction between 0 and 1"),
        ([WEIGHTS, "--neighbours=3"], "did you mean '--neighbors'"),
    ],
)
def test_options_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "probe", *argv)


def test_only_a_picture_that_is_drawn_is_pointed_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {"knn": 1, "linear": 1, "train_images": 1, "val_images": 1}
    monkeypatch.setattr("fcmae.finetune.commands.probe.probe", lambda **_: metrics)
    assert main(["probe", WEIGHTS, "--collapse=collapse.png"]) == 0
    shown = capsys.readouterr().out
    assert "no collapse is drawn" in shown
    assert "look at" not in shown
