"""A cluster from outside: one class, registered by one line, does all that the command line asks of one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcmae.core.errors import UserError
from fcmae.launch.cli.main import main
from fcmae.launch.cluster.base import Cluster, State
from fcmae.launch.cluster.job import Submission
from fcmae.launch.cluster.options import JobOptions
from fcmae.launch.cluster.records import Record, read_record
from fcmae.launch.cluster.registry import CLUSTERS
from tests.launch.toys import refusal


class Background(Cluster):
    """Plain processes of this machine."""

    def check_options(self, options: JobOptions) -> None:
        if options.processes > 1:
            raise UserError(f"--cluster {options.cluster}: one process, not {options.processes}")

    def submit(self, submission: Submission) -> list[str]:
        environment = {**os.environ, "PYTHONPATH": str(submission.code)}
        ids = []
        for job in submission.jobs:
            argv = [sys.executable, "-P", "-m", "fcmae", job.command, *job.argv]
            printed = submission.notes / "new.out"
            with printed.open("w") as output:
                process = subprocess.Popen(argv, env=environment, stdout=output, stderr=output)
            ids.append(str(process.pid))
            printed.rename(submission.notes / f"{process.pid}_0_log.out")
        return ids

    def state(self, record: Record) -> State:
        command = Path(f"/proc/{record.job}/cmdline")
        active = command.exists() and b"fcmae" in command.read_bytes()
        return State("RUNNING", True) if active else State("ENDED", False)

    def cancel(self, record: Record) -> None:
        os.kill(int(record.job), signal.SIGTERM)


@pytest.fixture
def background(monkeypatch: pytest.MonkeyPatch) -> Background:
    """A cluster of that name, registered for the length of a test."""
    background = Background()
    monkeypatch.setitem(CLUSTERS, "background", background)
    return background


SUBMIT = ["submit", "pretrain", "--cluster", "background"]
TINY = ["--", "--config", "tiny.yaml", "--out", "run"]


def wait(cluster: Cluster, run: Path) -> str:
    """Wait for the job of a run; return its output."""
    record = read_record(run)
    assert record is not None
    end = time.monotonic() + 200
    while cluster.state(record).active:
        assert time.monotonic() < end
        time.sleep(0.1)
    return cluster.output(record).read_text()


def test_a_registered_cluster_is_asked_what_it_can(
    folder: Path, background: Background, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SUBMIT, "--dry-run", *TINY]) == 0
    assert "\nfcmae pretrain --config " in capsys.readouterr().out
    assert "one process, not 2" in refusal(capsys, *SUBMIT, "--tasks-per-node", "2", *TINY)
    pipeline = ["submit", "pipeline", "--cluster", "background", "--", "pretrain", *TINY[1:3]]
    assert "needs --cluster slurm, whose jobs wait" in refusal(capsys, *pipeline)
    moon = [*SUBMIT[:3], "moon", *TINY]
    assert "choose one of slurm, local, debug, background" in refusal(capsys, *moon)
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_a_registered_cluster_runs_shows_and_cancels(
    folder: Path, background: Background, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SUBMIT, *TINY]) == 0
    assert "done: 55 steps" in wait(background, folder / "run")
    capsys.readouterr()
    assert main(["jobs", "run"]) == 0
    assert "COMPLETED" in capsys.readouterr().out
    assert main([*SUBMIT, *TINY[:-1], "long", "--epochs", "500"]) == 0
    assert "is running for this run" in refusal(capsys, *SUBMIT, *TINY[:-1], "long", "--epochs", "500")
    while not (folder / "long" / "log.jsonl").exists():
        time.sleep(0.1)
    assert main(["jobs", "long", "--cancel"]) == 0
    assert "stopped after step" in wait(background, folder / "long")
