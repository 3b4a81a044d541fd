"""`fcmae jobs`: what the runs in a folder are doing, from the cluster and from the runs' own logs."""

import os
import re
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.engine.display import format_duration
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cluster.base import State
from fcmae.launch.cluster.records import Record, find_records
from fcmae.launch.cluster.registry import find_cluster

TAIL = 5  # lines of a job's output that are shown
TAIL_BYTES = 1 << 14  # in which they are looked for
TAILS = 4  # most runs whose output is shown
PROGRESS = ("epoch", "loss", "images/s", "left")
HEADINGS = (
    "run",
    "command",
    "job",
    "state",
    "reason",
    "queued for",
    *PROGRESS,
    "starts",
    "preempted",
    "failed",
)
NARROW = ("job", "state", "queued for")  # never broken into lines


def run(argv: list[str]) -> int:
    """Show or cancel the jobs of the runs in a folder; return the exit status.

    Raises:
        UserError: there is no such folder, nothing in it was submitted, or a cluster does not answer
    """
    options = make_parser().read(argv)
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: no such folder")
    records = find_records(options.folder)
    if not records:
        raise UserError(f"{options.folder}: no run in it was submitted with fcmae submit")
    if options.cancel:
        cancel(records)
    else:
        show(records)
    return 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser("fcmae jobs", "Show what the runs in a folder are doing.")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), help="a run, or a folder of runs"
    )
    parser.add_argument("--cancel", action="store_true", help="cancel their jobs")
    return parser


def show(records: dict[Path, Record]) -> None:
    """Print a table of the runs and the last output of a few, those that failed first.

    Args:
        records: by folder of the run

    Raises:
        UserError: some clusters did not answer; the table says what is known from the runs' own logs
    """
    states = ask(records)
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=heading in NARROW)
    common = Path(os.path.commonpath(records)) if len(records) > 1 else next(iter(records)).parent
    for folder, record in records.items():
        name = str(folder.relative_to(common))
        table.add_row(name, record.command, record.job, *row(folder, record, states[folder]))
    console = Console(width=None if Console().is_terminal else 180, highlight=False)
    console.print(table)
    failed = [folder for folder, record in records.items() if record.noted("failed")]
    shown = list(records) if len(records) <= TAILS else failed[:TAILS]
    for folder in shown:
        lines, process = tail(records[folder])
        if lines:
            heading = f"{folder}, process {process}:" if process else f"{folder}:"
            console.print(heading, *(f"  {line}" for line in lines), sep="\n", markup=False)
    refuse_silence(states)


def ask(records: dict[Path, Record]) -> dict[Path, State]:
    """Return what the clusters say of the jobs of runs, in one question to each cluster."""
    states: dict[Path, State] = {}
    for name in dict.fromkeys(record.cluster for record in records.values()):
        asked = [folder for folder, record in records.items() if record.cluster == name]
        answers = find_cluster(name).states([records[folder] for folder in asked])
        states |= dict(zip(asked, answers, strict=True))
    return states


def refuse_silence(states: dict[Path, State]) -> None:
    """Refuse to let no answer pass for the answer that nothing runs.

    Raises:
        UserError: there are jobs that a cluster said nothing of
    """
    silent = [state.reason for state in states.values() if state.active is None]
    if silent:
        raise UserError(f"whether {len(silent)} jobs run is not known ({silent[0]}): try again later")


def row(folder: Path, record: Record, state: State) -> list[str]:
    """Return what the columns from `state` on say of a run."""
    run = RunFolder(folder)
    log = run.records()
    config = read_config(run)
    needed = ("epoch", "loss", "images_per_s")  # the log may have been damaged, and null is not finite
    steps = [each for each in log if all(isinstance(each.get(name), int | float) for name in needed)]
    values = dict.fromkeys(HEADINGS[3:], "")
    values["state"] = outcome(record, state, sum("epoch_loss" in each for each in log), config.get("epochs"))
    values["reason"] = state.reason
    if state.waited is not None:
        values["queued for"] = format_duration(state.waited)
    if steps:
        last, epochs = steps[-1], config.get("epochs", 0)
        values["epoch"] = f"{last['epoch']:.2f}/{epochs}"
        values["loss"] = f"{last['loss']:.4f}"
        values["images/s"] = f"{last['images_per_s']:.0f}"
        per_epoch = last["step"] / last["epoch"] * config.get("batch_size", 0)
        if state.active and last["images_per_s"]:
            values["left"] = format_duration((epochs - last["epoch"]) * per_epoch / last["images_per_s"])
    for heading, event in (("starts", "started"), ("preempted", "preempted"), ("failed", "failed")):
        values[heading] = str(len(record.noted(event)))
    return list(values.values())


def outcome(record: Record, state: State, finished: int, epochs: int | None) -> str:
    """Return how far a job is: COMPLETED where it is done, else what the cluster says of it.

    Args:
        record: of the job, whose own processes note that it is done, where they note anything
        state: what the cluster says
        finished: epochs in the log of the run
        epochs: those that it is to have, of a command that trains
    """
    if record.noted("done"):
        return state.name if state.active else "COMPLETED"
    if state.active or state.active is None:
        return state.name
    notes = bool(record.noted("started"))
    if finished == epochs:
        return state.name if notes else "COMPLETED"
    return f"{state.name}, unfinished" if notes or epochs is not None else state.name


def read_config(run: RunFolder) -> dict[str, Any]:
    """Return the settings of a run; none of a run that has not started, or whose settings are damaged."""
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def tail(record: Record) -> tuple[list[str], int]:
    """Return the last lines that a job printed, and the process: the one that failed last, or the first."""
    failures = record.noted("failed")
    named = re.match(r"process (\d+)", failures[-1]) if failures else None
    process = int(named[1]) if named else 0
    path = find_cluster(record.cluster).output(record, process)
    if not path.exists():
        return [], process
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        return file.read().decode(errors="replace").splitlines()[-TAIL:], process


def cancel(records: dict[Path, Record]) -> None:
    """Cancel the jobs of runs that are queued or running. They save first.

    Args:
        records: by folder of the run

    Raises:
        UserError: some clusters did not answer
    """
    states = ask(records)
    active = [folder for folder, state in states.items() if state.active]
    for folder in active:
        find_cluster(records[folder].cluster).cancel(records[folder])
        print(f"cancelled job {records[folder].job} of {folder}")
    print(f"{len(active)} jobs cancelled; what was running saves before it ends")
    refuse_silence(states)
