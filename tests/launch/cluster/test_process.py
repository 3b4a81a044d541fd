"""How a job's process ends, by what its command returns or raises, and what it notes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import fcmae
from fcmae.launch.cluster.process import STOPPED, JobProcess, run_fcmae
from fcmae.launch.cluster.records import Notes


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """The variables of the one process of a job; handlers of signals are back afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    with mock.patch.dict(os.environ, ranks):
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def end(folder: Path, status: int) -> int:
    """Call a process whose command ends with a status; return the one that the process exits with."""

    def run(argv: list[str]) -> int:
        assert argv == ["pretrain", "--seed", "1"]
        return status

    with mock.patch("fcmae.launch.cluster.process.run_fcmae", run):
        return JobProcess(Notes(folder / "7"), folder, ["pretrain", "--seed", "1"])()


def noted(folder: Path) -> set[str]:
    """Return the events that were noted."""
    return {path.suffix[1:] for path in folder.glob("7.*")}


@pytest.mark.parametrize(
    ("status", "exits", "events"),
    [
        (0, 0, {"done"}),
        (2, 2, set()),  # an old listing of a shared folder may be why
        (128 + signal.SIGINT, 128 + signal.SIGINT, {"final"}),
        (128 + signal.SIGTERM, 128 + signal.SIGTERM, {"terminated"}),
        (STOPPED, 0, {"stopped"}),
        (1, 1, set()),
    ],
)
def test_what_started_the_process_reads_its_notes(
    tmp_path: Path, status: int, exits: int, events: set[str]
) -> None:
    assert end(tmp_path, status) == exits
    assert noted(tmp_path) == events


def test_rank_zero_alone_notes_that_a_job_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert end(tmp_path, 0) == 0
    assert not noted(tmp_path)


def test_a_mistake_is_final_once_there_was_a_step_and_when_it_comes_twice(tmp_path: Path) -> None:
    (tmp_path / "7.failed").write_text("exit status 2 on node1\n")
    assert end(tmp_path, 2) == 2
    assert noted(tmp_path) == {"failed", "final"}
    run = tmp_path / "run"
    run.mkdir()

    def train(argv: list[str]) -> int:
        (run / "log.jsonl").write_text("{}\n")
        return 2

    process = JobProcess(Notes(run / "7"), run, ["pretrain"])
    with mock.patch("fcmae.launch.cluster.process.run_fcmae", train):
        assert process() == 2
    assert noted(run) == {"final"}


def test_a_finished_run_takes_no_signal_while_it_shuts_down(tmp_path: Path) -> None:
    assert end(tmp_path, 0) == 0
    assert {signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR2)} == {signal.SIG_IGN}


def test_a_command_is_run_as_python_m_fcmae_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_fcmae(["--version"]) == 0
    assert capsys.readouterr().out.strip() == fcmae.__version__
    assert run_fcmae(["no-such-command"]) == 2
    with mock.patch("fcmae.launch.cli.main.main", side_effect=ZeroDivisionError):
        assert run_fcmae([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_nothing_in_its_shutdown_fails_a_process_that_is_done(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.abort)\n")
    argv = ["-m", "fcmae.launch.cluster.process", str(tmp_path / "7"), str(tmp_path), "--version"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (0, fcmae.__version__)
    assert (tmp_path / "7.done").exists()


def test_a_signal_before_the_first_step_is_no_end(tmp_path: Path) -> None:
    class Ended(BaseException):
        pass

    process = JobProcess(Notes(tmp_path / "7"), tmp_path, ["pretrain"])
    with (
        mock.patch("fcmae.launch.cluster.process.end_process", side_effect=Ended) as end_process,
        mock.patch("fcmae.launch.cli.main.main", side_effect=lambda: signal.raise_signal(signal.SIGUSR2)),
        pytest.raises(Ended),
    ):
        process()
    end_process.assert_called_once_with(0)
    assert noted(tmp_path) == {"stopped"}
