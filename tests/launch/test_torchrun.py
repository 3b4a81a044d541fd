"""Pre-training started by torchrun or srun is the run of one process, however many there are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fcmae.engine.run_folder import RunFolder

TINY = {
    "data": "digits",
    "image_size": 16,
    "epochs": 1,
    "batch_size": 128,
    "network": {"in_chans": 1, "stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
    "decoder": {"dim": 8},
    "optim": {"lr": 1e-3},
    "images": {"workers": 0},
    "loop": {"log_every": 1},
}
FCMAE = str(Path(sys.executable).with_name("fcmae"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]


def pretrain(folder: Path, starter: list[str], *options: str) -> str:
    return fcmae(folder, starter, "pretrain", "--config", "tiny.yaml", *options)


def fcmae(folder: Path, starter: list[str], *argv: str) -> str:
    command = [*starter, FCMAE, *argv, "--device", "cpu"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_same_run(ours: Path, theirs: Path) -> None:
    for name in ("loss", "grad_norm"):
        curves = [
            torch.tensor([each[name] for each in RunFolder(run).records() if name in each])
            for run in (ours, theirs)
        ]
        torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-5)
    weights = [load_file(run / "encoder.safetensors") for run in (ours, theirs)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and the run of one process, in alone/."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    pretrain(folder, [], "--out", "alone")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_of_torchrun(folder: Path, sharding: str) -> None:
    output = pretrain(folder, TORCHRUN, "--out", sharding, "--loop.sharding", sharding)
    assert output.count("run folder:") == 1
    assert_same_run(folder / sharding, folder / "alone")


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.skipif(
    shutil.which("squeue") is None or subprocess.run(["squeue"], capture_output=True).returncode != 0,
    reason="no SLURM cluster: squeue does not answer",
)
def test_two_machines_of_srun(folder: Path) -> None:
    output = pretrain(folder, ["srun", "-N2", "-n2"], "--out", "srun")
    assert output.count("run folder:") == 1
    assert_same_run(folder / "srun", folder / "alone")


@pytest.mark.slow
def test_two_processes_measure_what_one_does(folder: Path) -> None:
    """The 359 validation digits do not divide evenly among two processes and batches of 64."""
    shared = ("data", "image_size", "epochs", "network", "images")
    (folder / "classifier.yaml").write_text(yaml.safe_dump({name: TINY[name] for name in shared}))
    fcmae(folder, [], "finetune", "--config", "classifier.yaml", "--init", "alone", "--out", "classifier")
    for command in (["evaluate", "--out", "report"], ["probe", "--limit", "300"]):
        argv = [*command, "--weights", "classifier", "--workers", "0"]
        alone, together = (fcmae(folder, starter, *argv) for starter in ([], TORCHRUN))
        assert without_speed(together) == without_speed(alone)


def without_speed(output: str) -> str:
    return re.sub(r"[0-9]+ images/s", "", output)
