"""What a place where jobs run has to answer: the interface of every backend."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fcmae.core.errors import UserError
from fcmae.launch.cluster.job import Submission
from fcmae.launch.cluster.options import JobOptions
from fcmae.launch.cluster.records import Record


@dataclass(frozen=True)
class State:
    """What a cluster says of a job.

    Args:
        name: PENDING, RUNNING, ..., ENDED where the cluster forgot it, NO ANSWER where it says nothing
        active: whether it is queued or running; None where the cluster does not answer
        reason: why it waits, or why there is no answer
        waited: seconds in the queue before its last start, or until now
    """

    name: str
    active: bool | None
    reason: str = ""
    waited: float | None = None


def no_answer(reason: str) -> State:
    """Return the state of a job of which nobody knows whether it runs."""
    return State("NO ANSWER", None, reason)


class Cluster(ABC):
    """A place where jobs run. A new one is a subclass, registered by `registry.register_cluster`.

    Attributes:
        queues: whether a job goes on when the process that submits it has ended; where not, the command
            runs in that process, and only `check_options` is asked
        waits: whether a job can wait until another has ended well, as the steps of a pipeline do
    """

    queues: ClassVar[bool] = True
    waits: ClassVar[bool] = False

    def check_options(self, options: JobOptions) -> None:  # noqa: B027 - most clusters take everything
        """Refuse what can never be had here.

        Raises:
            UserError: naming the option
        """

    def check_extra(self, extra: dict[str, str]) -> None:
        """Refuse options in the cluster's own words that it would not heed.

        Args:
            extra: by name

        Raises:
            UserError: naming the option
        """
        for name in extra:
            raise UserError(f"--slurm-{name} is an option of sbatch: it is for --cluster slurm")

    def check_jobs(self, submission: Submission) -> None:  # noqa: B027 - or say no only to what is queued
        """Refuse jobs that the cluster would not take, while nothing has been written yet.

        Raises:
            UserError: in the cluster's own words, where it has any
        """

    def preview(self, submission: Submission) -> str:
        """Return what the cluster would be given besides command lines, for a person to read: a script."""
        return ""

    @abstractmethod
    def submit(self, submission: Submission) -> list[str]:
        """Queue jobs; return the id of each.

        The folder `submission.code` holds our package and should come first in the job's PYTHONPATH.

        Raises:
            UserError: the cluster refuses
        """

    @abstractmethod
    def state(self, record: Record) -> State:
        """Return what became of a job; `no_answer` where that is not known, never that it has ended."""

    def states(self, records: list[Record]) -> list[State]:
        """Return what became of several jobs: by default one is asked for after the other."""
        return [self.state(record) for record in records]

    @abstractmethod
    def cancel(self, record: Record) -> None:
        """End a job that is active, by a signal after which it can save."""

    def output(self, record: Record, rank: int = 0) -> Path:
        """Return the file that holds what a process of a job printed."""
        return record.kept.output(rank)
