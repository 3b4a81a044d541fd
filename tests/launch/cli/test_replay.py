"""`fcmae replay` shows where a step overflows; what keeps no step is refused."""

from pathlib import Path

import pytest

from fcmae.launch.cli.main import main
from tests.launch.toys import refusal


def test_a_step_that_overflows(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate so high that the weights of the first step are of no use to the second."""
    options = ["--optim.lr", "1e30", "--optim.warmup-epochs", "0"]
    assert main(["pretrain", "--config", "tiny.yaml", *options]) == 2
    error = capsys.readouterr().err
    assert "of step 2 is not finite" in error
    assert "fcmae replay run shows" in error
    before = sorted(Path("run").rglob("*"))
    assert main(["replay", "run", "--count", "4"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("step 2: loss nan")
    assert lines[0].startswith("the first activations that are not finite")
    assert len(lines) == 2 * (1 + 4)
    assert any(line.split()[1] in ("inf", "nan") for line in lines[1:5])
    assert sorted(Path("run").rglob("*")) == before
    assert main(["pretrain", "--config", "tiny.yaml", "--change"]) == 0  # at the recipe's own rate


def test_what_keeps_no_step(started_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run keeps no step" in refusal(capsys, "replay", "run")
    assert "nowhere keeps no step" in refusal(capsys, "replay", "nowhere")
