"""What SLURM says of jobs: squeue of those in the queue and those just ended, sacct of those long ended."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from fcmae.launch.cluster.base import State, no_answer

SECONDS = 30.0  # how long squeue may take, and sacct
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
)  # fmt: skip
FIELDS = "%i|%T|%V|%S|%r|%E"  # id, state, when it was queued, its start, reason, what it waits for


class NoAnswerError(Exception):
    """SLURM does not say what became of jobs; the message says why."""


def ask(jobs: Sequence[str]) -> dict[str, State]:
    """Return what SLURM says of each job, in one question however many there are.

    A job that neither squeue nor sacct knows has ended, and only its own notes tell how.

    Args:
        jobs: their ids, those of an array as 31_4
    """
    listed = ",".join(jobs)
    try:
        found = read_squeue(
            call(["squeue", "--noheader", "--array", "--states=all", "--jobs", listed, "--format", FIELDS])
        )
    except NoAnswerError as error:
        return dict.fromkeys(jobs, no_answer(str(error)))
    forgotten = [job for job in jobs if job not in found]
    if forgotten:
        sacct = ["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(forgotten)]
        with suppress(
            NoAnswerError
        ):  # many sites keep no accounts, and that it is not queued squeue has said
            found |= read_sacct(call(sacct))
    return {job: found.get(job, State("ENDED", False)) for job in jobs}


def call(argv: list[str]) -> str:
    """Return what a command of SLURM prints.

    Raises:
        NoAnswerError: it is not there, fails or takes too long
    """
    try:
        answer = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
        )
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{argv[0]} has not answered within {SECONDS:.0f} s") from None
    except OSError as error:
        raise NoAnswerError(f"{argv[0]}: {error.strerror}") from None
    if answer.returncode and "Invalid job id" not in answer.stderr:  # which it says of a job long ended
        raise NoAnswerError(f"{argv[0]}: {' '.join(answer.stderr.split()) or f'status {answer.returncode}'}")
    return answer.stdout


def read_squeue(answer: str) -> dict[str, State]:
    """Return the states in an answer of squeue, a line of `FIELDS` for each job."""
    states = {}
    for line in answer.splitlines():
        job, name, queued, started, reason, dependency = line.split("|", 5)
        states[job] = State(
            name,
            name not in ENDED,  # a name that we do not know is of a job that may run
            explain(reason, dependency) if name == "PENDING" else "",
            waited(queued, started if name != "PENDING" else "N/A"),
        )
    return states


def read_sacct(answer: str) -> dict[str, State]:
    """Return the states in an answer of sacct, a line of id and state for each job."""
    states = {}
    for line in answer.splitlines():
        job, name, *_ = [*line.split("|"), ""]
        name = (name.split() or ["ENDED"])[0]  # CANCELLED by 1000
        states[job] = State(name, name not in (*ENDED, "ENDED"))
    return states


def explain(reason: str, dependency: str) -> str:
    """Return why a job waits, in SLURM's words, with what it waits for where that is another job."""
    if reason != "Dependency" or dependency == "(null)":
        return reason
    return f"{reason}: {dependency.replace('(unfulfilled)', '')}"


def waited(queued: str, started: str) -> float | None:
    """Return how many seconds a job was in the queue before its last start, until now if that is N/A."""
    try:
        end = datetime.now() if started == "N/A" else datetime.fromisoformat(started)
        return max((end - datetime.fromisoformat(queued)).total_seconds(), 0.0)
    except ValueError:  # N/A
        return None
