"""The benchmark of a whole step runs on a CPU and refuses to time what does not agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import step
from torch import OutOfMemoryError, Tensor, nn, ones

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_all_ways_agree_and_are_reported(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "step.py"), "--image-size", "64", "--batch", "2"]
    command += ["--repeats", "2", "--no-compile", "--threads", "1", "--json", str(tmp_path / "step.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=240, capture_output=True)
    report = json.loads((tmp_path / "step.json").read_text(encoding="utf-8"))
    ways = {name: [row["way"] for row in rows] for name, rows in report["tasks"].items()}
    assert ways["pretrain"][:2] == ["masked, eager, torch", "tiles, eager, torch"]
    assert ways["finetune"] == ["timm, eager, torch", "ours, eager, torch"]
    parts = {"stem", "downsample", "depthwise", "norms", "pointwise", "GELU and GRN"}
    assert set(report["parts_ms"]) == parts | {"decoder", "loss", "optimiser"}


def test_what_does_not_agree_is_not_timed(capsys: pytest.CaptureFixture[str]) -> None:
    ways = {}
    for name, weight in (("first", 1.0), ("second", 1.01)):
        model = nn.Linear(2, 1, bias=False)
        nn.init.constant_(model.weight, weight)
        ways[name] = step.Step(model, lambda model: model(ones(3, 2)).square().mean(), "float32")
    assert step.check_agreement(ways, 1e-3) == ["first"]
    assert "second: does not agree" in capsys.readouterr().out


def test_a_way_that_fails_or_begins_too_late_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    def full(model: nn.Module) -> Tensor:
        raise OutOfMemoryError("tried to allocate 20 GiB")

    def broken(model: nn.Module) -> Tensor:
        raise RuntimeError("PassManager::run failed")

    def fits(model: nn.Module) -> Tensor:
        output: Tensor = model(ones(3, 2))
        return output.square().mean()

    model = nn.Linear(2, 1)
    computations = {"large": full, "new": broken, "small": fits}
    ways = {name: step.Step(model, compute, "float32") for name, compute in computations.items()}
    assert step.check_agreement(ways, 1e-3) == ["small"]
    said = capsys.readouterr().out
    assert "large: left out, OutOfMemoryError: tried to allocate 20 GiB" in said
    assert "new: left out, RuntimeError: PassManager::run failed" in said
    assert step.check_agreement(ways, 1e-3, deadline=0.0) == []
