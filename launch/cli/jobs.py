"""`fcmae jobs`: what the runs in a folder are doing, from the cluster and from the runs' own logs."""

import os
from pathlib import Path

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
TAILS = 4  # most runs whose output is shown
HEADINGS = ("run", "command", "job", "state", "epoch", "loss", "images/s", "left", "requeues")


def run(argv: list[str]) -> int:
    """Show or cancel the jobs of the runs in a folder; return the exit status.

    Raises:
        UserError: there is no such folder, or nothing in it was submitted
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
    """Print a table of the runs and, of a few, the last output.

    Args:
        records: by folder of the run
    """
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=heading in ("job", "state"))
    common = Path(os.path.commonpath(records)) if len(records) > 1 else next(iter(records)).parent
    for folder, record in records.items():
        state = find_cluster(record.cluster).state(record)
        name = str(folder.relative_to(common))
        table.add_row(name, record.command, record.job, *row(folder, record, state))
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(table)
    for folder, record in records.items() if len(records) <= TAILS else ():
        lines = tail(record)
        if lines:
            console.print(f"{folder}:", *(f"  {line}" for line in lines), sep="\n", markup=False)


def row(folder: Path, record: Record, state: State) -> list[str]:
    """Return state, epoch, loss, images/s, time left and requeues of a run, as text."""
    run = RunFolder(folder)
    log = run.records()
    steps = [each for each in log if "images_per_s" in each]
    config = yaml.safe_load(run.config.read_text()) if run.config.exists() else {}
    epochs = config.get("epochs")
    finished = sum("epoch_loss" in each for each in log)
    name = state.name
    done = finished == epochs or record.noted("done")  # the latter also for a run that is out of patience
    if not state.active and done:
        name = "COMPLETED"
    elif not state.active and epochs is not None and name != "COMPLETED":
        name = f"{name}, unfinished"
    values = [name, "", "", "", "", str(max(len(record.noted("started")) - 1, 0))]
    if steps:
        last = steps[-1]
        values[1] = f"{last['epoch']:.2f}/{epochs}"
        values[2] = f"{last['loss']:.4f}"
        values[3] = f"{last['images_per_s']:.0f}"
        per_epoch = last["step"] / last["epoch"] * config.get("batch_size", 0)
        if state.active and last["images_per_s"]:
            values[4] = format_duration((epochs - last["epoch"]) * per_epoch / last["images_per_s"])
    return values


def tail(record: Record) -> list[str]:
    """Return the last lines of the output of a job's first process."""
    path = find_cluster(record.cluster).output(record)
    return path.read_text(errors="replace").splitlines()[-TAIL:] if path.exists() else []


def cancel(records: dict[Path, Record]) -> None:
    """Cancel the jobs of runs that are queued or running. They save first.

    Args:
        records: by folder of the run
    """
    count = 0
    for folder, record in records.items():
        cluster = find_cluster(record.cluster)
        if not cluster.state(record).active:
            continue
        cluster.cancel(record)
        count += 1
        print(f"cancelled job {record.job} of {folder}")
    print(f"{count} jobs cancelled; what was running saves before it ends")
