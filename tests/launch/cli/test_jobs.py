"""`fcmae jobs`: what it shows of runs, and what it cancels."""

from pathlib import Path

import pytest

from fcmae.launch.cli.jobs import row
from fcmae.launch.cli.main import main
from fcmae.launch.cluster.base import State
from fcmae.launch.cluster.debug import Debug
from fcmae.launch.cluster.records import Record, write_record
from fcmae.launch.cluster.registry import CLUSTERS
from tests.launch.toys import refusal

RUNNING = State("RUNNING", True)


class Told(Debug):
    """A cluster whose jobs are in the state that their id names, until they are cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def state(self, record: Record) -> State:
        return State("ENDED", False) if record.job == "1" else RUNNING

    def cancel(self, record: Record) -> None:
        self.cancelled.append(record.job)


@pytest.fixture
def told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """A cluster whose job 1 has ended and whose job 2 runs, each for a run in runs/."""
    told = Told()
    monkeypatch.setitem(CLUSTERS, "told", told)
    for job, name in (("1", "first"), ("2", "second")):
        notes = directory / "runs" / name / "jobs"
        write_record(notes.parent, Record(job, "told", "pretrain", str(notes)))
        (notes / f"{job}_0_log.out").write_text(f"the output of {name}\n")
    return told


@pytest.mark.parametrize(
    ("state", "events", "shown"),
    [
        (State("ENDED", False), (), "ENDED, unfinished"),
        (State("ENDED", False), ("done",), "COMPLETED"),
        (State("COMPLETED", False), (), "COMPLETED"),
        (State("TIMEOUT", False), ("failed",), "TIMEOUT, unfinished"),
        (RUNNING, (), "RUNNING"),
    ],
)
def test_a_run_that_is_out_of_patience_is_complete(
    directory: Path, state: State, events: tuple[str, ...], shown: str
) -> None:
    (directory / "config.yaml").write_text("epochs: 20")
    (directory / "log.jsonl").write_text('{"epoch": 1, "epoch_loss": 0.5}\n')
    for event in events:
        (directory / f"7.{event}").write_text("\n")
    assert row(directory, Record("7", "slurm", "pretrain", str(directory)), state)[0] == shown


def test_progress_is_read_from_the_log(directory: Path) -> None:
    (directory / "config.yaml").write_text("epochs: 4\nbatch_size: 10\n")
    (directory / "log.jsonl").write_text('{"step": 50, "epoch": 0.5, "loss": 0.25, "images_per_s": 100.0}\n')
    (directory / "7.started").write_text("on node1\non node2\n")
    record = Record("7", "slurm", "pretrain", str(directory))
    assert row(directory, record, RUNNING) == ["RUNNING", "0.50/4", "0.2500", "100", "0:35", "1"]


def test_the_table_has_a_row_for_each_run_and_the_last_output(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs"]) == 0
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:5]] for line in shown.splitlines() if "│" in line]
    assert rows == [["first", "pretrain", "1", "ENDED"], ["second", "pretrain", "2", "RUNNING"]]
    assert "runs/first:\n  the output of first\n" in shown


def test_only_active_jobs_are_cancelled(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "runs", "--cancel"]) == 0
    assert told.cancelled == ["2"]
    assert capsys.readouterr().out.startswith("cancelled job 2 of runs/second\n1 jobs cancelled")


def test_folders_without_jobs(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert "nowhere: no such folder" in refusal(capsys, "jobs", "nowhere")
    assert "empty: no run in it was submitted" in refusal(capsys, "jobs", "empty")
    del CLUSTERS["told"]
    assert "unknown cluster 'told': choose one of slurm, local, debug" in refusal(capsys, "jobs")
    CLUSTERS["told"] = told  # which the fixture takes out again
