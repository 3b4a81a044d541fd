"""`fcmae jobs`: what the runs in a folder are doing, from the cluster and from the runs' own logs."""

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from fcmae.engine.errors import UserError
from fcmae.engine.progress import format_duration
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.settings import Parser

TAIL = 5  # lines of a job's output that are shown


@dataclass(frozen=True)
class State:
    """What the cluster says of a job.

    Args:
        name: PENDING, RUNNING, ... or ENDED, where the cluster has forgotten it
        active: whether it is queued or running
    """

    name: str
    active: bool


def jobs_command(argv: list[str]) -> int:
    """Show, or cancel, the jobs of the runs in a folder."""
    parser = Parser("fcmae jobs", "Show what the runs in a folder are doing.")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), help="a run, or a folder of runs"
    )
    parser.add_argument("--cancel", action="store_true", help="cancel their jobs")
    options = parser.read(argv)
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder")
    runs = find_runs(options.folder)
    if not runs:
        raise UserError(f"{options.folder}: no run in it was submitted with fcmae submit")
    if options.cancel:
        return cancel(runs)
    show(runs)
    return 0


def find_runs(folder: Path) -> list[Path]:
    """The folders at or below `folder` that a job was submitted for, in the order of submission."""
    from launch.submit import JOBS, RECORD

    runs = [path.parent.parent for path in folder.glob(f"**/{JOBS}/{RECORD}")]
    return sorted(runs, key=_number)


def _number(run: Path) -> list[int]:
    """Number of a run's job, and of its place in an array."""
    record = read_record(run)
    return [int(part) for part in record["job"].split("_")] if record else []


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `fcmae submit` noted in a run's folder: job, cluster, stage, notes."""
    from launch.submit import JOBS, RECORD

    path = folder / JOBS / RECORD
    return json.loads(path.read_text()) if path.exists() else None


def cluster_state(record: dict[str, Any]) -> State:
    """What becomes of the job of a record."""
    if record["cluster"] == "local":
        return State("RUNNING", True) if is_alive(int(record["job"])) else State("ENDED", False)
    squeue = ["squeue", "-h", "-j", record["job"], "--states=all", "-o", "%T"]
    try:
        answer = subprocess.run(squeue, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return State("UNKNOWN", False)
    name = (answer.stdout.split() or ["ENDED"])[0]
    return State(name, name in ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED"))


def is_alive(pid: int) -> bool:
    """Whether a process of that number is there and is a job of ours."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"submitit" in command


def show(runs: list[Path]) -> None:
    """Print a table of the runs, and the last output of those that ended badly or are running."""
    table = Table()
    for heading in ("run", "stage", "job", "state", "epoch", "loss", "images/s", "left", "requeues"):
        table.add_column(heading, no_wrap=heading in ("job", "state"))
    tails = []
    common = Path(os.path.commonpath(runs)) if len(runs) > 1 else runs[0].parent
    for run in runs:
        record = read_record(run)
        assert record is not None
        state = cluster_state(record)
        table.add_row(str(run.relative_to(common)), record["stage"], record["job"], *row(run, record, state))
        tails.append((run, tail(record)))
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(table)
    for run, lines in tails if len(tails) <= 4 else []:
        if lines:
            console.print(f"{run}:", *(f"  {line}" for line in lines), sep="\n", markup=False)


def row(run: Path, record: dict[str, Any], state: State) -> list[str]:
    """State, epoch, loss, images/s, time left and requeues of a run, as text."""
    records = RunFolder(run).records()
    steps = [each for each in records if "images_per_s" in each]
    config = yaml.safe_load((run / "config.yaml").read_text()) if (run / "config.yaml").exists() else {}
    epochs = config.get("epochs")
    finished = sum("epoch_loss" in each for each in records)
    name = state.name
    if not state.active and epochs is not None:
        name = "COMPLETED" if finished == epochs else f"{name}, unfinished"
    started = notes(record, "started")
    values = [name, "", "", "", "", str(max(len(started) - 1, 0))]
    if steps:
        last = steps[-1]
        values[1] = f"{last['epoch']:.2f}/{epochs}"
        values[2] = f"{last['loss']:.4f}"
        values[3] = f"{last['images_per_s']:.0f}"
        per_epoch = last["step"] / last["epoch"] * config.get("batch_size", 0)
        if state.active and last["images_per_s"]:
            values[4] = format_duration((epochs - last["epoch"]) * per_epoch / last["images_per_s"])
    return values


def notes(record: dict[str, Any], event: str) -> list[str]:
    """The lines that a job's processes noted under an event, see `launch.job.Job`."""
    path = Path(record["notes"]) / f"{record['job']}.{event}"
    return path.read_text().splitlines() if path.exists() else []


def tail(record: dict[str, Any]) -> list[str]:
    """The last lines of the output of a job's first process."""
    path = Path(record["notes"]) / f"{record['job']}_0_log.out"
    return path.read_text(errors="replace").splitlines()[-TAIL:] if path.exists() else []


def cancel(runs: list[Path]) -> int:
    """Cancel the jobs of runs that are queued or running. They save first."""
    count = 0
    for run in runs:
        record = read_record(run)
        assert record is not None
        if not cluster_state(record).active:
            continue
        count += 1
        if record["cluster"] == "local":
            shell = record["job"]
            for controller in Path(f"/proc/{shell}/task/{shell}/children").read_text().split():
                os.kill(int(controller), signal.SIGTERM)  # it hands the signal on
        else:
            subprocess.run(["scancel", record["job"]], check=True, timeout=60)
        print(f"cancelled job {record['job']} of {run}")
    print(f"{count} jobs cancelled; what was running saves before it ends")
    return 0
