"""What a job asks of a cluster."""

import re
from dataclasses import dataclass, field
from typing import Literal

from fcmae.core.errors import UserError

TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class JobOptions:
    """What a job asks of the cluster.

    Args:
        cluster: slurm; local: this machine, in the background, without SLURM; debug: this very process; or
            one that was registered
        nodes: machines
        gpus_per_node: GPUs of each machine, by default none
        tasks_per_node: processes on each machine, by default one for each GPU, or one
        cpus_per_task: cores of each process, by default one and one more for each worker that reads images
        mem: memory of each machine, such as 64G
        time: time limit, as SLURM writes it: minutes, hours:minutes:seconds or days-hours:minutes
        partition: where to queue
        account: who pays
        qos: quality of service
        constraint: features that the machines must have
        exclude: machines to leave out
        comment: note to the cluster's accounting
        job_name: name in the queue, by default fcmae-<command>
        signal_seconds: how long before its time limit a job is told to save and queue again
        retries: how often a job that failed by itself is queued again
        stalls: starts in a row that may end, for whatever reason, without a new checkpoint
        parallel: jobs of a sweep that run at the same time
        setup: line of bash that the job begins with, such as `module load cuda`; repeatable
        container: image that the processes run in, with PyTorch and what fcmae depends on
        container_runtime: what starts the container
        container_mounts: folders that it sees besides the run's, as SOURCE:TARGET; repeatable
        python: what starts Python, by default the Python that submits, in a container python3
    """

    cluster: str = "slurm"
    nodes: int = 1
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str = "1-00:00"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    comment: str | None = None
    job_name: str | None = None
    signal_seconds: int = 120
    retries: int = 2
    stalls: int = 5
    parallel: int = 256
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    container_runtime: Literal["pyxis", "apptainer", "docker"] = "pyxis"
    container_mounts: list[str] = field(default_factory=list)
    python: str | None = None

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def processes(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks

    def check(self) -> None:
        """Refuse what no cluster can give.

        Raises:
            UserError: a count below 1, or a time limit that is none or too short to save in
        """
        for name in ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "stalls", "parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}: it must be at least 1")
        if 60 * minutes(self.time) <= self.signal_seconds:
            raise UserError(
                f"--time {self.time} leaves nothing before the signal to save, {self.signal_seconds} s "
                "before the limit: ask for more time, or lower --signal-seconds"
            )


def minutes(time: str) -> float:
    """Return in minutes a time limit as SLURM writes it: 90, 90:00, 1:30:00, 0-1:30, 1-0.

    Raises:
        UserError: it is none
    """
    match = TIME.fullmatch(time)
    if not match:
        raise UserError(f"--time {time}: expected minutes, hours:minutes:seconds or days-hours:minutes")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:
        hours, mins, seconds = [*parts, 0, 0][:3]
        return 60 * (24 * int(match["days"]) + hours) + mins + seconds / 60
    hours, mins, seconds = (0, *parts, 0) if len(parts) == 1 else ([0, *parts] if len(parts) == 2 else parts)
    return 60 * hours + mins + seconds / 60
