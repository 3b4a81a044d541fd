"""What keeps a job on this machine, on processes that end as they are told."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fcmae.launch.cluster import keeper
from fcmae.launch.cluster.keeper import Keeper, Kept, newest_step

WAIT = "/bin/sleep 60"


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Handlers of signals are back afterwards."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


class Scripted(Keeper):
    """A keeper whose processes are lines of shell: for each start one for each process."""

    def __init__(self, kept: Kept, *starts: tuple[str, ...]) -> None:
        super().__init__(replace(kept, processes=len(starts[0])))
        self.starts = iter(starts)

    def start(self) -> int | None:
        self.lines = next(self.starts)
        return super().start()

    def start_process(self, rank: int, meeting: dict[str, str]) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "note": str(self.notes.prefix)}
        return subprocess.Popen(["bash", "-c", self.lines[rank]], env=environment)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    monkeypatch.setattr(keeper, "PERIOD", 0.01)
    monkeypatch.setattr(keeper, "GRACE", 0.3)
    return Kept(str(tmp_path), str(tmp_path / "run"), ["pretrain"], 1, 100.0, 1.0, 1, 3)


def noted(kept: Scripted) -> dict[str, int]:
    """The events that were noted, and how many lines each has."""
    paths = Path(kept.kept.notes).glob(f"{kept.notes.prefix.name}.*")
    return {path.suffix[1:]: len(path.read_text().splitlines()) for path in paths}


def test_a_job_is_done_with_its_own_note_only(kept: Kept) -> None:
    job = Scripted(kept, ("true", "echo > $note.done"))
    assert job.keep() == 0
    assert noted(job) == {"started": 1, "done": 1}
    job = Scripted(replace(kept, retries=0), ("true",))
    job.notes.add("done")  # of an earlier start
    assert job.keep() == 1


def test_a_stopped_job_starts_again_as_often_as_it_takes(kept: Kept) -> None:
    stopped = "echo > $note.stopped"
    job = Scripted(replace(kept, stalls=9), *[(stopped,)] * 5, ("echo > $note.done",))
    assert job.keep() == 0
    assert noted(job)["started"] == 6
    assert "failed" not in noted(job)


def test_starts_that_save_nothing_are_bounded(kept: Kept, capfd: pytest.CaptureFixture[str]) -> None:
    job = Scripted(kept, *[("echo > $note.stopped",)] * 9)
    assert job.keep() == 1
    assert noted(job)["started"] == 4
    assert "3 starts saved nothing after step 0" in capfd.readouterr().out


def test_a_failure_is_tried_again_as_often_as_asked_and_names_its_process(kept: Kept) -> None:
    job = Scripted(kept, ("true", "exit 3"), (WAIT, "kill -9 $$"), ("echo > $note.done", "true"))
    begun = time.monotonic()
    assert job.keep() == 1
    assert job.notes.lines("failed") == ["process 1: exit status 3", "process 1: exit status -9"]
    assert time.monotonic() - begun < 20  # the others are not waited for


@pytest.mark.parametrize("event", ["final", "terminated"])
def test_what_a_person_wished_or_has_to_mend_is_not_tried_again(kept: Kept, event: str) -> None:
    job = Scripted(kept, (f"echo > $note.{event}; exit 2",))
    assert job.keep() == 1
    assert "failed" not in noted(job)


def test_a_cancelled_job_may_save_and_stays_away(kept: Kept) -> None:
    job = Scripted(kept, ("trap 'echo > $note.saved; exit 143' TERM; while :; do /bin/sleep 0.05; done",))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    assert job.keep() == 1
    assert set(noted(job)) == {"started", "saved"}


def test_before_its_time_limit_a_job_is_told_to_save(kept: Kept) -> None:
    limited = replace(kept, seconds=2.0, signal_seconds=1.7)
    told = "trap 'echo > $note.stopped; exit 0' USR2; while :; do /bin/sleep 0.05; done"
    job = Scripted(limited, (told,), ("echo > $note.done",))
    assert job.keep() == 0
    deaf = Scripted(replace(limited, retries=0), ("trap '' USR2 TERM; exec " + WAIT,))
    assert deaf.keep() == 1
    assert deaf.notes.lines("failed") == ["process 0: exit status -9"]


def test_the_newest_step_is_of_the_names_of_checkpoints(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step_000000012.pt", "step_000000030", "step_000000040.pt.tmp", "best.pt"):
        (folder / name).write_text("")
    assert newest_step(tmp_path) == 30
