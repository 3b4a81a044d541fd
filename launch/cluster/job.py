"""What a cluster is given: jobs, and what they ask for."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cluster.options import JobOptions


@dataclass(frozen=True)
class Job:
    """A command whose settings are resolved.

    Args:
        command: its name, such as pretrain
        argv: its options
        folder: absolute; of its run, or for the record of a job that has no run
        workers: processes that read images beside each that computes, where the settings name a number
        batch: how many images each process takes at once, for a person to read
    """

    command: str
    argv: list[str]
    folder: Path
    workers: int | None = None
    batch: str = ""

    @property
    def command_line(self) -> str:
        """What a person would type."""
        return shlex.join(["fcmae", self.command, *self.argv])


@dataclass(frozen=True)
class Submission:
    """Jobs that are queued together, several of them as an array.

    Args:
        jobs: at least one
        options: what each asks of the cluster
        root: absolute; the folder of the run, sweep or pipeline, which holds code, logs and notes
        code: absolute; the copy of our package that the jobs import, see `code.snapshot`
        name: in the queue
        extra: further options in the cluster's own words, by name
        after: id of the job that has to end well before these start, if any
    """

    jobs: list[Job]
    options: JobOptions
    root: Path
    code: Path
    name: str
    extra: dict[str, str] = field(default_factory=dict)
    after: str | None = None

    @property
    def notes(self) -> Path:
        """The folder of the logs, and of the notes on how the jobs ended."""
        return RunFolder(self.root).jobs
