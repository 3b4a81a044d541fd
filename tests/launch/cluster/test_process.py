"""How a job's process ends, by what its command returns or raises, and what it notes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from fcmae.launch.cluster.job import Job
from fcmae.launch.cluster.local import LocalProcess
from fcmae.launch.cluster.process import STOPPED, JobProcess

RANKS = ("NTASKS", "JOB_NUM_NODES", "NODEID", "GLOBALID", "LOCALID")


@pytest.fixture(autouse=True)
def submitit_environment() -> Iterator[None]:
    """The variables that submitit sets for the one process of job 7."""
    names = dict(zip([f"SUBMITIT_LOCAL_{name}" for name in RANKS], "11000", strict=True))
    handler = signal.getsignal(signal.SIGUSR2)
    own = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7", **names}
    with mock.patch.dict(os.environ, own):
        yield
    signal.signal(signal.SIGUSR2, handler)


def end(kind: type[JobProcess], folder: Path, status: int | Exception, *, retries: int = 1) -> object:
    """Run a process whose command returns or raises; return the status it exits with, or what it raises."""

    def run(argv: list[str]) -> int:
        assert argv == ["--seed", "1"]
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "1")
        if isinstance(status, Exception):
            raise status
        return status

    try:
        kind(Job("pretrain", run, ["--seed", "1"], folder), folder, retries)()
    except SystemExit as ended:
        return ended.code
    except ValueError as error:
        return error
    return 0


def noted(folder: Path) -> dict[str, int]:
    """Return the events that were noted, and how many lines each has."""
    return {path.suffix[1:]: len(path.read_text().splitlines()) for path in folder.glob("7.*")}


@pytest.mark.parametrize(
    ("status", "exits", "events"),
    [
        (0, 0, {"done"}),
        (2, 2, {"final"}),
        (128 + signal.SIGINT, 128 + signal.SIGINT, {"final"}),
        (128 + signal.SIGTERM, 128 + signal.SIGTERM, {"terminated"}),
        (STOPPED, 0, {"stopped"}),
        (1, 1, set()),
    ],
)
def test_on_a_cluster_a_batch_script_reads_the_notes(
    tmp_path: Path, status: int, exits: int, events: set[str]
) -> None:
    assert end(JobProcess, tmp_path, status) == exits
    assert set(noted(tmp_path)) == {"started", *events}


def test_on_this_machine_the_exit_status_starts_a_stopped_job_again(tmp_path: Path) -> None:
    assert end(LocalProcess, tmp_path, STOPPED) == LOCAL_REQUEUE_RETURN_CODE
    assert noted(tmp_path) == {"started": 1, "stopped": 1}


def test_on_this_machine_a_failure_is_tried_again_as_often_as_was_asked(tmp_path: Path) -> None:
    error = ValueError("a mistake of ours")
    assert end(LocalProcess, tmp_path, error) == LOCAL_REQUEUE_RETURN_CODE
    assert noted(tmp_path) == {"started": 1, "failed": 1}
    assert end(LocalProcess, tmp_path, error) is error
    assert noted(tmp_path) == {"started": 2, "failed": 2}


def test_a_failure_on_a_cluster_is_counted_by_its_script(tmp_path: Path) -> None:
    error = ValueError("a mistake of ours")
    assert end(JobProcess, tmp_path, error) is error
    assert noted(tmp_path) == {"started": 1}
