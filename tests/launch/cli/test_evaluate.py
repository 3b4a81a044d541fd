"""`fcmae evaluate`: what it refuses, and the pictures that it points to."""

from pathlib import Path

import pytest

from fcmae.launch.cli.main import main
from tests.launch.toys import make_classes, refusal

WEIGHTS = "--weights=weights.safetensors"
pytestmark = pytest.mark.usefixtures("trained")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--weights=nowhere"], "no such weights"),
        ([WEIGHTS], "say with --data what to measure on"),
        ([WEIGHTS, "--data=nowhere"], "does not exist"),
        (
            [WEIGHTS, "--data=data"],
            "weights.safetensors does not know 1 of the 2 classes of data (dog); it knows 2 (cat, cow)",
        ),
        ([WEIGHTS, "--data=digits", "--out=no/x"], "does not exist"),
        ([WEIGHTS, "--data=digits", "--batch-size=0"], "at least 1"),
        ([WEIGHTS, "--data=digits", "--image-size=0"], "at least 1"),
    ],
)
def test_options_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "evaluate", *argv)


def test_only_pictures_that_are_drawn_are_pointed_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_classes(Path("known"), {"cat": 2, "cow": 2})
    argv = ["evaluate", WEIGHTS, "--data=known", "--workers=0", "--device=cpu", "--out=report"]
    assert main(argv) == 0
    assert "look at report/confusion.png and" in capsys.readouterr().out
    monkeypatch.setattr("fcmae.finetune.measure.CONFUSION_CLASSES", 1)
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "look at report/worst_classes.png; so many classes get no confusion matrix" in shown
    assert not Path("report/confusion.png").exists()
