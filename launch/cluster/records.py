"""What was submitted for a run, and what the job itself notes of its way."""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically
from fcmae.engine.run_folder import RunFolder


@dataclass(frozen=True)
class Record:
    """Which job was queued for a run.

    Args:
        job: its id
        cluster: name of the cluster that gave the id
        command: what it runs, such as pretrain
        notes: absolute; the folder of its logs and notes
    """

    job: str
    cluster: str
    command: str
    notes: str

    @property
    def kept(self) -> "Notes":
        """What its processes noted and printed."""
        return Notes(Path(self.notes, self.job))

    def noted(self, event: str) -> list[str]:
        """Return the lines that the job's processes noted under an event, see `process.JobProcess`."""
        return self.kept.lines(event)


@dataclass(frozen=True)
class Notes:
    """What the processes of a job note and print: files of one prefix.

    Args:
        prefix: absolute; a folder and the job's id
    """

    prefix: Path

    def file(self, event: str) -> Path:
        """Return the file of an event."""
        return Path(f"{self.prefix}.{event}")

    def lines(self, event: str) -> list[str]:
        """Return what was noted of an event, a line each time."""
        return self.file(event).read_text().splitlines() if self.file(event).exists() else []

    def add(self, event: str, text: str = "") -> None:
        """Note an event."""
        with self.file(event).open("a") as file:
            file.write(f"{text}\n")

    def output(self, rank: int) -> Path:
        """Return the file that holds what a process printed."""
        return Path(f"{self.prefix}_{rank}_log.out")


def local_id(process: int) -> str:
    """Return the id of a job that a process of this machine keeps; a shared folder shows it to others."""
    return f"{process}@{os.uname().nodename}"


def write_record(run: Path, record: Record) -> None:
    """Note in a run's folder which job is its own."""
    path = RunFolder(run).submitted
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(json.dumps(asdict(record)).encode())


def read_record(run: Path) -> Record | None:
    """Return what `write_record` noted in a run's folder, if anything was submitted for it.

    Raises:
        UserError: the file is damaged
    """
    path = RunFolder(run).submitted
    try:
        return Record(**json.loads(path.read_text())) if path.exists() else None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({' '.join(str(error).split())}): see in the cluster's queue which job "
            "is that run's; where there is none, delete the file"
        ) from None


def find_records(folder: Path) -> dict[Path, Record]:
    """Return the runs at or below a folder that a job was submitted for, in the order of submission."""
    runs = [path.parent.parent for path in folder.glob(str(RunFolder("**").submitted))]
    records = {run: record for run in runs if (record := read_record(run))}
    return dict(sorted(records.items(), key=_order))


def _order(entry: tuple[Path, Record]) -> tuple[list[int], Path]:
    """Return the numbers in a job's id, its own and its place in an array; then the folder."""
    run, record = entry
    return [int(number) for number in re.findall(r"\d+", record.job)], run
