"""How a job's process ends, by what its command returns or raises, and what it notes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

import fcmae
from fcmae.launch.cluster.local import LocalProcess
from fcmae.launch.cluster.process import STOPPED, JobProcess, run_fcmae

RANKS = ("NTASKS", "JOB_NUM_NODES", "NODEID", "GLOBALID", "LOCALID")


@pytest.fixture(autouse=True)
def submitit_environment() -> Iterator[None]:
    """The variables that submitit sets for the one process of job 7."""
    names = dict(zip([f"SUBMITIT_LOCAL_{name}" for name in RANKS], "11000", strict=True))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    own = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7", **names}
    with mock.patch.dict(os.environ, own):
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def end(process: JobProcess, status: int) -> object:
    """Call a process whose command ends with a status; return the one that the process exits with."""

    def run(argv: list[str]) -> int:
        assert argv == ["pretrain", "--seed", "1"]
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "1")
        return status

    with mock.patch("fcmae.launch.cluster.process.run_fcmae", run):
        try:
            process()
        except SystemExit as ended:
            return ended.code
    return 0


def on_a_cluster(folder: Path) -> JobProcess:
    return JobProcess(folder, folder, ["pretrain", "--seed", "1"])


def on_this_machine(folder: Path) -> LocalProcess:
    return LocalProcess(folder, folder, ["pretrain", "--seed", "1"], retries=1)


def noted(folder: Path) -> dict[str, int]:
    """Return the events that were noted, and how many lines each has."""
    return {path.suffix[1:]: len(path.read_text().splitlines()) for path in folder.glob("7.*")}


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
def test_on_a_cluster_a_batch_script_reads_the_notes(
    tmp_path: Path, status: int, exits: int, events: set[str]
) -> None:
    assert end(on_a_cluster(tmp_path), status) == exits
    assert set(noted(tmp_path)) == events


def test_a_mistake_is_final_once_there_was_a_step_and_when_it_comes_twice(tmp_path: Path) -> None:
    (tmp_path / "7.failed").write_text("exit status 2 on node1\n")
    assert end(on_a_cluster(tmp_path), 2) == 2
    assert set(noted(tmp_path)) == {"failed", "final"}
    run = tmp_path / "run"
    run.mkdir()

    def train(argv: list[str]) -> int:
        (run / "log.jsonl").write_text("{}\n")
        return 2

    process = JobProcess(run, run, ["pretrain"])
    with mock.patch("fcmae.launch.cluster.process.run_fcmae", train), pytest.raises(SystemExit):
        process()
    assert set(noted(run)) == {"final"}


def test_a_finished_run_takes_no_signal_while_it_shuts_down(tmp_path: Path) -> None:
    assert end(on_a_cluster(tmp_path), 0) == 0
    assert {signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR2)} == {signal.SIG_IGN}


def test_on_this_machine_the_exit_status_starts_a_stopped_job_again(tmp_path: Path) -> None:
    assert end(on_this_machine(tmp_path), STOPPED) == LOCAL_REQUEUE_RETURN_CODE
    assert noted(tmp_path) == {"started": 1, "stopped": 1}


def test_on_this_machine_a_failure_is_tried_again_as_often_as_was_asked(tmp_path: Path) -> None:
    assert end(on_this_machine(tmp_path), 1) == LOCAL_REQUEUE_RETURN_CODE
    assert noted(tmp_path) == {"started": 1, "failed": 1}
    assert end(on_this_machine(tmp_path), 1) == 1
    assert noted(tmp_path) == {"started": 2, "failed": 2}


def test_a_command_is_run_as_python_m_fcmae_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_fcmae(["--version"]) == 0
    assert capsys.readouterr().out.strip() == fcmae.__version__
    assert run_fcmae(["no-such-command"]) == 2
    with mock.patch("fcmae.launch.cli.main.main", side_effect=ZeroDivisionError):
        assert run_fcmae([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
