"""A run for each combination of values."""

from pathlib import Path

import pytest

from fcmae.launch.cli.main import main
from fcmae.launch.cli.submit.sweep import combinations
from tests.launch.toys import refusal


def test_combinations_are_all_pairs() -> None:
    points = combinations(["optim.base-lr=1e-4,2e-4", "--seed=0,1"])
    assert points[1] == [("optim.base_lr", "1e-4"), ("seed", "1")]
    assert len({tuple(point) for point in points}) == 4


def test_the_script_is_of_an_array(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["--sweep", "seed=0,1,2", "--parallel", "2"]
    assert main(["submit", "pretrain", "--dry-run", *sweep, "--", "--config", "tiny.yaml"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-2%2" in script
    assert f"{folder}/runs/pretrain-sweep/jobs" in script


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretrain", "--sweep", "seed"], "expected name=value"),
        (["pretrain", "--sweep", "seed=1", "--sweep", "seed=2"], "twice"),
        (["pretrain", "--sweep", "sed=1,2", "--", "--config", "tiny.yaml"], "did you mean '--seed'"),
        (
            ["evaluate", "--sweep", "seed=1,2"],
            "pretrain and finetune: evaluate trains nothing",
        ),
    ],
)
def test_what_cannot_be_swept(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in refusal(capsys, "submit", *argv)
    assert not list(folder.glob("**/jobs"))
