"""Jobs in the background of this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.main import main
from fcmae.launch.cluster import local
from fcmae.launch.cluster.base import State
from fcmae.launch.cluster.records import Record, read_record
from fcmae.launch.cluster.registry import find_cluster
from tests.launch.toys import refusal


def test_a_port_in_use_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(listener.getsockname()[1]))
        argv = ["--cluster", "local", "--", "--config", "tiny.yaml", "--out", "run"]
        assert "already in use" in refusal(capsys, "submit", "pretrain", *argv)


def test_gpus_that_are_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["submit", "pretrain", "--cluster", "local", "--gpus-per-node"]
    monkeypatch.setattr(local, "count_gpus", lambda: 2)
    assert "--gpus-per-node 3: this machine shows 2" in refusal(capsys, *argv, "3")
    assert main([*argv, "2", "--dry-run"]) == 0


def test_of_a_job_on_another_machine_nothing_is_known(tmp_path: Path) -> None:
    record = Record(f"{os.getpid()}@moon", "local", "pretrain", str(tmp_path))
    state = find_cluster("local").state(record)
    assert state.active is None
    assert "started on moon" in state.reason
    record.kept.add("done")
    assert find_cluster("local").state(record).active is False


def test_the_callers_output_is_let_go_of(folder: Path) -> None:
    """`fcmae submit --cluster local | tee log` ends while the job, which waits here in its setup, goes on."""
    submit = [sys.executable, "-m", "fcmae", "submit", "pretrain", "--cluster", "local"]
    command = ["--", "--config", "tiny.yaml", "--out", "run"]
    begun = time.monotonic()
    shown = subprocess.run([*submit, "--setup", "exec sleep 30", *command], capture_output=True, text=True)
    assert time.monotonic() - begun < 25
    assert "queued job" in shown.stdout
    record = read_record(folder / "run")
    assert record is not None
    assert find_cluster("local").state(record) == State("ENDED", False)  # sleep is no keeper
    os.kill(int(record.job.partition("@")[0]), signal.SIGTERM)


def test_a_setup_that_fails_is_told_in_the_output(folder: Path) -> None:
    argv = ["--cluster", "local", "--setup", "echo no module cuda; false", "--", "--config", "tiny.yaml"]
    assert main(["submit", "pretrain", *argv, "--out", "run"]) == 0
    assert "no module cuda" in wait(folder / "run")


def wait(run: Path) -> str:
    """Wait for the job in a run's folder; returns its output."""
    end = time.monotonic() + 200
    while (record := read_record(run)) and find_cluster(record.cluster).state(record).active:
        assert time.monotonic() < end
        time.sleep(0.2)
    return "\n".join(path.read_text() for path in sorted(run.glob("jobs/*log.out")))


def note(run: Path, event: str) -> list[str]:
    record = read_record(run)
    assert record is not None
    return record.noted(event)


@pytest.mark.slow
def test_job_on_this_machine_runs_the_code_and_settings_of_its_submission(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("models.py", "launch.py", "fcmae.py"):
        Path(name).write_text("raise RuntimeError('a module of the user')")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    argv = ["--cluster", "local", "--tasks-per-node", "2", "--", "--config", "tiny.yaml", "--out", "run"]
    assert main(["submit", "pretrain", *argv]) == 0
    Path("tiny.yaml").write_text("epochs: 7")
    output = wait(folder / "run")
    assert "done: 55 steps" in output
    assert len(list((folder / "run" / "code").glob("*/fcmae/models/convnext.py"))) == 1
    capsys.readouterr()
    assert main(["jobs", "run"]) == 0
    assert "COMPLETED" in capsys.readouterr().out
    assert len(note(folder / "run", "done")) == 1


@pytest.mark.slow
def test_killed_process_on_this_machine_is_tried_again_in_the_same_folder(folder: Path) -> None:
    argv = ["--cluster", "local", "--tasks-per-node", "2", "--", "--config", "tiny.yaml", "--epochs", "3"]
    assert main(["submit", "pretrain", *argv, "--out", "run", "--loop.save_minutes", "0.001"]) == 0
    run = folder / "run"
    end = time.monotonic() + 100
    while len(RunFolder(run).records()) < 10:
        assert time.monotonic() < end
        time.sleep(0.1)
    [victim] = [pid for pid in processes_of(run) if "RANK=1" in environment(pid)]
    os.kill(victim, 9)
    output = wait(run)
    assert note(run, "failed") == ["process 1: exit status -9"]
    assert "process 0 of 2" in output
    assert "going on after step" in output
    assert len(note(run, "started")) == 2
    state = Checkpoints(run / "checkpoints").newest()
    assert state is not None
    assert state["progress"]["finished_epochs"] == 3


@pytest.mark.slow
def test_cancelled_job_on_this_machine_saves_and_stays_away(folder: Path) -> None:
    argv = ["--cluster", "local", "--", "--config", "tiny.yaml", "--epochs", "50", "--out", "run"]
    assert main(["submit", "pretrain", *argv]) == 0
    run = folder / "run"
    end = time.monotonic() + 100
    while len(RunFolder(run).records()) < 5:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert main(["jobs", "run", "--cancel"]) == 0
    assert "stopped after step" in wait(run)
    assert Checkpoints(run / "checkpoints").newest() is not None
    assert len(note(run, "started")) == 1


def processes_of(run: Path) -> list[int]:
    """The training processes of the job in a run folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if "fcmae.launch.cluster.process" in argv and str(run) in argv:
            found.append(int(entry.name))
    return found


def environment(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
