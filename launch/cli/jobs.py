"""`fcmae jobs`: what the runs in a folder are doing, from the cluster and from the runs' own logs."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.engine.display import format_duration
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cluster.records import State, cluster_state, find_runs, notes, read_record

TAIL = 5  # lines of a job's output that are shown


def run(argv: list[str]) -> int:
    """Show or cancel the jobs of the runs in a folder; return the exit status."""
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
    folder = RunFolder(run)
    records = folder.records()
    steps = [each for each in records if "images_per_s" in each]
    config = yaml.safe_load(folder.config.read_text()) if folder.config.exists() else {}
    epochs = config.get("epochs")
    finished = sum("epoch_loss" in each for each in records)
    name = state.name
    if not state.active and (finished == epochs or notes(record, "done")):  # with patience, before all epochs
        name = "COMPLETED"
    elif not state.active and epochs is not None and name != "COMPLETED":
        name = f"{name}, unfinished"
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
