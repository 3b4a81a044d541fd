"""`fcmae jobs`: what it shows of runs, and what it cancels."""

from pathlib import Path

import pytest

from fcmae.launch.cli.jobs import HEADINGS, row
from fcmae.launch.cli.main import main
from fcmae.launch.cluster.base import State, no_answer
from fcmae.launch.cluster.debug import Debug
from fcmae.launch.cluster.records import Record, write_record
from fcmae.launch.cluster.registry import CLUSTERS
from tests.launch.toys import refusal

RUNNING = State("RUNNING", True)


class Told(Debug):
    """A cluster whose jobs are in the state that their id names, until they are cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.silent = False

    def state(self, record: Record) -> State:
        if self.silent:
            return no_answer("the controller is away")
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


ENDED = State("ENDED", False)


@pytest.mark.parametrize(
    ("state", "events", "epochs", "shown"),
    [
        (ENDED, ("started",), 1, "ENDED, unfinished"),
        (ENDED, ("started", "done"), 1, "COMPLETED"),  # out of patience
        (State("COMPLETED", False), ("started",), 1, "COMPLETED, unfinished"),
        (State("TIMEOUT", False), ("started", "failed"), 1, "TIMEOUT, unfinished"),
        (State("FAILED", False), ("started",), 20, "FAILED"),  # all epochs, and then not the weights
        (ENDED, (), 1, "ENDED, unfinished"),
        (ENDED, (), 20, "COMPLETED"),  # a cluster whose jobs note nothing
        (RUNNING, (), 1, "RUNNING"),
        (RUNNING, (), 20, "RUNNING"),
        (no_answer("squeue: no"), ("started",), 1, "NO ANSWER"),
        (no_answer("squeue: no"), ("started", "done"), 1, "COMPLETED"),
    ],
)
def test_what_is_unfinished_is_not_completed(
    directory: Path, state: State, events: tuple[str, ...], epochs: int, shown: str
) -> None:
    (directory / "config.yaml").write_text("epochs: 20")
    lines = [f'{{"step": {epoch}, "epoch": {epoch}, "epoch_loss": 0.5}}\n' for epoch in range(1, epochs + 1)]
    (directory / "log.jsonl").write_text("".join(lines))
    for event in events:
        (directory / f"7.{event}").write_text("\n")
    assert row(directory, Record("7", "slurm", "pretrain", str(directory)), state)[0] == shown


def test_a_command_that_measures_is_done_when_it_says_so(directory: Path) -> None:
    record = Record("7", "slurm", "probe", str(directory))
    (directory / "7.started").write_text("\n")
    assert row(directory, record, State("FAILED", False))[0] == "FAILED, unfinished"
    (directory / "7.done").write_text("\n")
    assert row(directory, record, ENDED)[0] == "COMPLETED"


@pytest.mark.parametrize("content", ["", "- 1", "{", "\x00"])
def test_damaged_settings_hide_no_run(directory: Path, content: str) -> None:
    (directory / "config.yaml").write_text(content)
    assert row(directory, Record("7", "slurm", "pretrain", str(directory)), RUNNING)[0] == "RUNNING"


def test_progress_is_read_from_the_log_and_starts_from_the_notes(directory: Path) -> None:
    (directory / "config.yaml").write_text("epochs: 4\nbatch_size: 10\n")
    (directory / "log.jsonl").write_text('{"step": 50, "epoch": 0.5, "loss": 0.25, "images_per_s": 100.0}\n')
    for event, count in {"started": 4, "preempted": 2, "failed": 1}.items():
        (directory / f"7.{event}").write_text("on node1\n" * count)
    record = Record("7", "slurm", "pretrain", str(directory))
    state = State("PENDING", True, "Priority", 65.0)
    shown = dict(zip(HEADINGS[3:], row(directory, record, state), strict=True))
    assert shown == {
        "state": "PENDING", "reason": "Priority", "queued for": "1:05", "epoch": "0.50/4", "loss": "0.2500",
        "images/s": "100", "left": "0:35", "starts": "4", "preempted": "2", "failed": "1",
    }  # fmt: skip


def test_the_table_has_a_row_for_each_run_and_the_last_output(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["jobs"]) == 0
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:5]] for line in shown.splitlines() if "│" in line]
    assert rows == [["first", "pretrain", "1", "ENDED"], ["second", "pretrain", "2", "RUNNING"]]
    assert "runs/first:\n  the output of first\n" in shown


def test_of_a_failed_job_the_output_of_the_process_that_failed_is_shown(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = Path("runs/first/jobs")
    (notes / "1.failed").write_text("process 0 ended with 1 on a\nprocess 3 ended with 137 on b\n")
    (notes / "1_3_log.out").write_text("".join(f"line {number}\n" for number in range(9000)))
    assert main(["jobs"]) == 0
    shown = capsys.readouterr().out
    assert "runs/first, process 3:\n  line 8995\n" in shown
    for number in range(3, 9):  # of many runs, the output of those that failed
        write_record(Path(f"runs/{number}"), Record("2", "told", "pretrain", str(notes)))
    assert main(["jobs"]) == 0
    shown = capsys.readouterr().out
    assert "runs/first, process 3:\n" in shown
    assert "the output of" not in shown


def test_no_answer_is_not_taken_for_nothing_runs(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.silent = True
    assert main(["jobs"]) == 2
    shown = capsys.readouterr()
    assert shown.out.count("NO ANSWER") == 2
    assert "whether 2 jobs run is not known (the controller is away)" in shown.err
    assert main(["jobs", "--cancel"]) == 2
    assert told.cancelled == []


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


def test_a_damaged_record_is_told(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = Path("runs/first/jobs/submitted.json")
    for content in ("{", '{"job": "1"}', "[]"):
        damaged.write_text(content)
        assert f"{damaged} is damaged" in refusal(capsys, "jobs")
