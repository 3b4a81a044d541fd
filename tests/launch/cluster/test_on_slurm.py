"""Jobs on a real cluster: they end, come back after preemption, time-out and kill, wait for one another."""

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.main import main
from fcmae.launch.cluster.records import read_record
from tests.launch.cluster.on_slurm import (
    cancel_all,
    ended,
    note,
    output,
    preempt_by,
    process_of,
    slurm_answers,
    steps,
    submit,
    until,
    write_recipe,
)
from tests.launch.toys import refusal
from tests.reliability.twenty_preemptions import survive

FINETUNE = ("finetune", "--config", "labels.yaml")
LABELS = {
    "data": "digits",
    "epochs": 1,
    "batch_size": 32,
    "augment": {"auto_augment": None},
    "images": {"workers": 0},
}

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not slurm_answers(), reason="no SLURM cluster: squeue does not answer"),
]


@pytest.fixture(autouse=True)
def recipes(folder: Path) -> Iterator[None]:
    """Recipes in the working directory, beside a user's module; jobs left over are cancelled."""
    write_recipe(folder)
    (folder / "labels.yaml").write_text(yaml.safe_dump(LABELS))
    (folder / "models.py").write_text("raise RuntimeError('a module of the user')")
    yield
    cancel_all(folder)


def test_preempted_by_every_signal_it_comes_back_and_ends_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SBATCH_PARTITION", "SLURM_NTASKS", "SRUN_CPUS_PER_TASK", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "7")  # as a job that submits would have them
    try:
        survive(folder, 2, ["low", "instant"], epochs=7)
    finally:
        preempt_by("user")


def test_time_limit_saves_and_goes_on(folder: Path) -> None:
    submit(
        "pretrain", "--time", "1", "--signal-seconds", "40",
        "--", "--config", "tiny.yaml", "--epochs", "40", "--out", "run",
    )  # fmt: skip
    run = folder / "run"
    until(lambda: len(note(run, "started")) >= 2, "it does not start again")
    until(lambda: "going on after step" in output(run), "it does not go on")
    assert not note(run, "failed")


def test_killed_process_is_tried_again(folder: Path) -> None:
    submit("pretrain", "--nodes", "2", "--retries", "1", "--", "--config", "tiny.yaml", "--epochs", "60",
           "--out", "run")  # fmt: skip
    run = folder / "run"
    until(lambda: len(steps(run)) > 10, "no steps")
    os.kill(process_of(run, 1), 9)
    until(lambda: len(note(run, "started")) == 2, "it does not start again")
    until(lambda: len(steps(run)) > 20, "no steps after the restart")
    os.kill(process_of(run, 1), 9)
    until(lambda: ended(run), "it does not give up")
    assert len(note(run, "failed")) == 2
    assert "Killed" in output(run)


# Takes note of its options, and starts what comes after the image.
APPTAINER = """#!/bin/bash
echo "$SETUP $*" >> "$SLURM_SUBMIT_DIR/contained"
until [ "$1" = image.sif ]; do shift; done
exec "${@:2}"
"""


def test_pipeline_of_three_steps_in_a_container(folder: Path) -> None:
    apptainer = folder / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.write_text(APPTAINER)
    apptainer.chmod(0o755)
    submit(
        "pipeline", "--out", "all",
        "--setup", f"export PATH={apptainer.parent}:$PATH", "--setup", "export SETUP='as asked'",
        "--container", "image.sif", "--container-runtime", "apptainer", "--python", sys.executable,
        "--", "pretrain", "--config", "tiny.yaml", "--epochs", "1",
        "--", *FINETUNE,
        "--", "evaluate", "--data", "digits",
    )  # fmt: skip
    root = folder / "all"
    until(lambda: ended(root / "evaluate"), "the last step does not end")
    assert (root / "evaluate" / "report" / "confusion.png").exists(), output(root)
    assert "top-1" in output(root)
    settings = yaml.safe_load((root / "finetune" / "config.yaml").read_text())
    assert settings["init"] == str(root / "pretrain")
    assert settings["network"]["dims"] == [8, 8, 8, 8]
    contained = (folder / "contained").read_text().splitlines()
    assert [line.startswith(f"as asked exec --bind={root}:{root} ") for line in contained] == 3 * [True]


def test_failed_step_cancels_what_waits_for_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit(
        "pipeline", "--out", "all",
        "--", "pretrain", "--config", "tiny.yaml", "--epochs", "60",
        "--", *FINETUNE,
        "--", "evaluate", "--data", "digits",
    )  # fmt: skip
    root = folder / "all"
    until(lambda: len(steps(root / "pretrain")) > 2, "no steps")
    assert main(["jobs", "all/pretrain", "--cancel"]) == 0
    for step in ("pretrain", "finetune", "evaluate"):
        until(partial(ended, root / step), f"{step} is still there")
    assert Checkpoints(root / "pretrain" / "checkpoints").newest() is not None  # it saved first
    assert not (root / "finetune" / "config.yaml").exists()
    assert len(note(root / "pretrain", "started")) == 1


def test_sweep_is_a_run_for_each_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit(
        "pretrain", "--sweep", "optim.lr=1e-3,2e-3", "--parallel", "2",
        "--", "--config", "tiny.yaml", "--epochs", "1", "--out", "sweep",
    )  # fmt: skip
    runs = [folder / "sweep" / f"optim.lr={lr}" for lr in ("1e-3", "2e-3")]
    until(lambda: all(ended(run) for run in runs), "the sweep does not end")
    losses = {tuple(each["loss"] for each in RunFolder(run).records() if "loss" in each) for run in runs}
    assert len(losses) == 2
    capsys.readouterr()
    assert main(["jobs", "sweep"]) == 0
    table = capsys.readouterr().out
    assert table.count("COMPLETED") == 2
    assert "optim.lr=2e-3" in table


def test_unknown_partition_is_refused_in_slurms_words(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["submit", "pretrain", "--partition", "moon", "--", "--out", "run"]
    assert "invalid partition" in refusal(capsys, *argv).lower()
    assert not (folder / "run").exists()


def test_second_job_for_a_run_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["pretrain", "--slurm-begin", "now+1hour", "--", "--config", "tiny.yaml", "--epochs", "1"]
    submit(*argv, "--out", "run")
    record = read_record(folder / "run")
    assert record is not None
    assert f"job {record.job} is pending" in refusal(capsys, "submit", *argv, "--out", "run")
