"""Jobs on a real cluster: they end, come back after preemption, time-out and kill, wait for one another."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.main import main
from fcmae.launch.cluster.records import find_records, read_record
from fcmae.launch.cluster.registry import find_cluster
from tests.launch.toys import TINY, refusal

RECIPE = {**TINY, "mask_ratio": 0.5, "loop": {"log_every": 1, "save_minutes": 0.0}}
FINETUNE = ("finetune", "--config", "labels.yaml")
LABELS = {
    "data": "digits",
    "epochs": 1,
    "batch_size": 32,
    "augment": {"auto_augment": None},
    "images": {"workers": 0},
}
STEPS_PER_EPOCH = 1797 // 32
PATIENCE = 240.0  # seconds


def slurm_answers() -> bool:
    if shutil.which("squeue") is None:
        return False
    return subprocess.run(["squeue", "-h"], capture_output=True, timeout=20).returncode == 0


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not slurm_answers(), reason="no SLURM cluster: squeue does not answer"),
]


@pytest.fixture(autouse=True)
def recipes(folder: Path) -> Iterator[None]:
    """Recipes in the working directory, beside a user's module; jobs left over are cancelled."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "labels.yaml").write_text(yaml.safe_dump(LABELS))
    (folder / "models.py").write_text("raise RuntimeError('a module of the user')")
    yield
    for record in find_records(folder).values():  # these alone: the user may have jobs of her own
        subprocess.run(["scancel", "--quiet", record.job], check=False)


def submit(*argv: str) -> None:
    assert main(["submit", *argv]) == 0


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.5)


def ended(run: Path) -> bool:
    record = read_record(run)
    return record is not None and not find_cluster(record.cluster).state(record).active


def output(run: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(run.glob("jobs/*log.out")))


def final_weights(run: Path, epochs: int) -> dict[str, torch.Tensor]:
    state = Checkpoints(run / "checkpoints").newest()
    assert state is not None, output(run)
    assert state["progress"]["finished_epochs"] == epochs, output(run)
    model: dict[str, torch.Tensor] = state["model"]
    return model


def steps(run: Path) -> list[int]:
    return [each["step"] for each in RunFolder(run).records() if "images_per_s" in each]


def note(run: Path, event: str) -> list[str]:
    record = read_record(run)
    assert record is not None
    return record.noted(event)


def preempt_by(signal: str) -> None:
    """Make the cluster send a preempted job SIGTERM, as most sites do (`term`), or its own signal (`user`).

    Without the switch that the local cluster has, the site's own way is tested.
    """
    switch = Path(os.environ.get("FCMAE_SHARED", "../shared"), "slurm", "start-slurm")
    if switch.exists():
        subprocess.run([switch, "--preempt-signal", signal], check=True, timeout=60)


@pytest.fixture
def site() -> Iterator[None]:
    """Bring the cluster's own way back."""
    yield
    preempt_by("user")


@pytest.mark.usefixtures("site")
def test_preempted_in_mid_epoch_it_comes_back_and_ends_the_same(folder: Path) -> None:
    job = ("--nodes", "2", "--time", "60", "--partition")
    command = ("--", "--config", str(folder / "tiny.yaml"), "--epochs", "4")
    submit("pretrain", *job, "local", *command, "--out", "whole")
    until(lambda: ended(folder / "whole"), "the uninterrupted run does not end")
    whole = final_weights(folder / "whole", 4)
    recipe = Path("tiny.yaml").read_text()
    for partition, signal in (("low", "user"), ("low", "term"), ("instant", "term")):
        preempt_by(signal)
        run = folder / f"{partition} $HOME 'by' {signal}"
        Path("tiny.yaml").write_text(recipe)
        submit("pretrain", *job, partition, *command, "--out", str(run), "--loop.save_minutes", "0.01")
        until(partial(has_steps, run, STEPS_PER_EPOCH // 3), "no steps")
        Path("tiny.yaml").write_text("epochs: 1")  # what is edited now does not matter
        preempt()
        until(partial(started_again, run), "it does not start again")
        until(partial(ended, run), "it does not end")
        assert "going on after step" in output(run)
        assert "going on after step 0" not in output(run)
        assert steps(run) == list(range(1, 4 * STEPS_PER_EPOCH + 1))
        torch.testing.assert_close(final_weights(run, 4), whole, rtol=0, atol=0)
        assert not note(run, "failed")
        assert len(note(run, "done")) == 1


def preempt() -> None:
    """Queue a short job that needs both machines whole."""
    subprocess.run(
        ["sbatch", "-p", "local", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3"],
        check=True,
    )


def has_steps(run: Path, count: int) -> bool:
    return len(steps(run)) > count


def started_again(run: Path) -> bool:
    return len(note(run, "started")) == 2


def test_time_limit_saves_and_goes_on(folder: Path) -> None:
    submit(
        "pretrain", "--nodes", "2", "--time", "1", "--signal-seconds", "40",
        "--", "--config", "tiny.yaml", "--epochs", "40", "--out", "run",
    )  # fmt: skip
    run = folder / "run"
    until(lambda: len(note(run, "started")) >= 2, "it does not start again")
    until(lambda: "going on after step" in output(run), "it does not go on")
    assert not note(run, "failed")


def test_killed_process_is_tried_again(folder: Path) -> None:
    submit("pretrain", "--nodes", "2", "--retries", "1", "--", "--config", "tiny.yaml", "--epochs", "6",
           "--out", "run", "--loop.save_minutes", "0.01")  # fmt: skip
    run = folder / "run"
    until(lambda: len(steps(run)) > 10, "no steps")
    os.kill(process_of(run, 1), 9)
    until(lambda: len(note(run, "started")) == 2, "it does not start again")
    until(lambda: len(steps(run)) > 20, "no steps after the restart")
    os.kill(process_of(run, 1), 9)
    until(lambda: ended(run), "it does not give up")
    assert len(note(run, "failed")) == 2
    assert "Killed" in output(run)


def process_of(run: Path, rank: int) -> int:
    """The process id of a rank of the job in a run folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = str(run / "jobs").encode() in argv and b"fcmae.launch.cluster.process" in argv
        if ours and f"SLURM_PROCID={rank}".encode() in environment:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def test_pipeline_of_three_steps(folder: Path) -> None:
    submit(
        "pipeline", "--out", "all",
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
        "pretrain", "--sweep", "optim.lr=1e-3,2e-3", "--sweep", "seed=0,1", "--parallel", "2",
        "--", "--config", "tiny.yaml", "--epochs", "1", "--out", "sweep",
    )  # fmt: skip
    runs = [folder / "sweep" / f"optim.lr={lr},seed={seed}" for lr in ("1e-3", "2e-3") for seed in (0, 1)]
    until(lambda: all(ended(run) for run in runs), "the sweep does not end")
    losses = {tuple(each["loss"] for each in RunFolder(run).records() if "loss" in each) for run in runs}
    assert len(losses) == 4
    capsys.readouterr()
    assert main(["jobs", "sweep"]) == 0
    table = capsys.readouterr().out
    assert table.count("COMPLETED") == 4
    assert "optim.lr=2e-3,seed=1" in table


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
