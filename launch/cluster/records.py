"""What was submitted for a run, and what the cluster and the job itself say of it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcmae.core.files import write_atomically
from fcmae.engine.run_folder import RunFolder

ACTIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED")


@dataclass(frozen=True)
class State:
    """What the cluster says of a job.

    Args:
        name: PENDING, RUNNING, ..., ENDED where the cluster forgot it, UNKNOWN where it does not answer
        active: whether it is queued or running
    """

    name: str
    active: bool


def write_record(run: Path, *, job: str, cluster: str, stage: str, notes: Path) -> None:
    """Note in a run's folder which job is its own."""
    path = RunFolder(run).submitted
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"job": job, "cluster": cluster, "stage": stage, "notes": str(notes)}
    with write_atomically(path) as file:
        file.write(json.dumps(record).encode())


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `write_record` noted in a run's folder; none where nothing was submitted for it."""
    path = RunFolder(folder).submitted
    return json.loads(path.read_text()) if path.exists() else None


def find_runs(folder: Path) -> list[Path]:
    """The folders at or below `folder` that a job was submitted for, in the order of submission."""
    runs = [path.parent.parent for path in folder.glob(str(RunFolder("**").submitted))]
    return sorted(runs, key=_number)


def _number(run: Path) -> list[int]:
    """Number of a run's job, and of its place in an array."""
    record = read_record(run)
    return [int(part) for part in record["job"].split("_")] if record else []


def cluster_state(record: dict[str, Any]) -> State:
    """What becomes of the job of a record."""
    if record["cluster"] == "local":
        return State("RUNNING", True) if is_alive(int(record["job"])) else State("ENDED", False)
    squeue = ["squeue", "-h", "-j", record["job"], "--states=all", "-o", "%T"]
    try:
        answer = subprocess.run(squeue, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return State("UNKNOWN", False)
    if answer.returncode and "Invalid job id" not in answer.stderr:  # which it says of one long ended
        return State("UNKNOWN", False)
    name = (answer.stdout.split() or ["ENDED"])[0]
    return State(name, name in ACTIVE)


def is_alive(pid: int) -> bool:
    """Whether a process of that number is there and is a job of ours."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"submitit" in command


def notes(record: dict[str, Any], event: str) -> list[str]:
    """The lines that a job's processes noted under an event, see `fcmae.launch.cluster.job.Job`."""
    path = Path(record["notes"]) / f"{record['job']}.{event}"
    return path.read_text().splitlines() if path.exists() else []
