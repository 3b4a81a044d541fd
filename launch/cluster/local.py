"""Jobs in the background of this machine, by submitit, without SLURM."""

import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import submitit
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from fcmae.core.errors import UserError
from fcmae.launch.cluster.base import Cluster, State
from fcmae.launch.cluster.code import import_lines
from fcmae.launch.cluster.job import Submission
from fcmae.launch.cluster.options import JobOptions, minutes
from fcmae.launch.cluster.process import JobProcess
from fcmae.launch.cluster.records import Record


class Local(Cluster):
    """This machine. A job's id is that of the process that keeps it, and it knows none of the others."""

    def check_options(self, options: JobOptions) -> None:
        """Refuse more machines than this one, and containers.

        Raises:
            UserError: more are asked for, or a container
        """
        if options.container:
            raise UserError(f"--container {options.container} is for --cluster slurm")
        if options.nodes > 1:
            raise UserError(f"--nodes {options.nodes}: --cluster {options.cluster} is this one machine")

    def submit(self, submission: Submission) -> list[str]:
        """Start jobs, all at once; return their ids.

        Raises:
            UserError: the port where the processes of each would meet is in use
        """
        logging.getLogger("submitit").setLevel(logging.ERROR)
        notes, options = submission.notes, submission.options
        notes.mkdir(parents=True, exist_ok=True)
        ids = []
        for job in submission.jobs:
            executor = submitit.LocalExecutor(notes)
            executor.update_parameters(
                timeout_min=minutes(options.time),
                tasks_per_node=options.tasks,
                gpus_per_node=options.gpus_per_node or 0,
                signal_delay_s=options.signal_seconds,
                stderr_to_stdout=True,
                setup=[
                    *import_lines(submission.code),
                    f"export MASTER_PORT={free_port()}",
                    *(f"{line} || exit" for line in options.setup),
                ],
            )
            process = LocalProcess(notes, job.folder, [job.command, *job.argv], options.retries)
            ids.append(str(executor.submit(process).job_id))
        return ids

    def state(self, record: Record) -> State:
        """Return whether the process of a job is there."""
        return State("RUNNING", True) if is_alive(int(record.job)) else State("ENDED", False)

    def cancel(self, record: Record) -> None:
        """Send SIGTERM to what keeps a job's processes, which hands it on."""
        shell = record.job
        for controller in Path(f"/proc/{shell}/task/{shell}/children").read_text().split():
            os.kill(int(controller), signal.SIGTERM)


@dataclass(frozen=True)
class LocalProcess(JobProcess):
    """A process of a job on this machine, where its exit status makes submitit start the job again.

    Args:
        retries: how often a failed job may start again
    """

    retries: int

    def begin(self, rank: int) -> None:
        """Note a start, once for all processes; they find each other here."""
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        if rank == 0:
            self.note("started", f"on {os.uname().nodename}")

    def leave(self, number: int = 0, frame: FrameType | None = None) -> NoReturn:
        """End in good order, to be started again; also a handler of signals."""
        self.note("stopped")
        sys.exit(LOCAL_REQUEUE_RETURN_CODE)

    def fail(self, status: int) -> None:
        """Note a failure, once for all processes of a start, and start again if any retry is left."""
        if self.noted("failed") < self.noted("started"):
            self.note("failed", f"exit status {status}")
        if self.noted("failed") <= self.retries:
            sys.exit(LOCAL_REQUEUE_RETURN_CODE)


def is_alive(pid: int) -> bool:
    """Return whether a process of that number is there and is a job of ours."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"submitit" in command


def free_port() -> int:
    """Return the port of MASTER_PORT, or any other, after seeing that nobody listens on it.

    Raises:
        UserError: somebody does
    """
    wanted = os.environ.get("MASTER_PORT", "0")
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", int(wanted)))
        except (OSError, ValueError, OverflowError) as error:
            raise UserError(
                f"MASTER_PORT={wanted} cannot be used ({error}); choose another, or none"
            ) from error
        port: int = listener.getsockname()[1]
        return port
