"""Jobs in the background of this machine, by submitit, without SLURM."""

import logging
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

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
        """Refuse more machines than this one.

        Raises:
            UserError: more are asked for
        """
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
                setup=[*import_lines(submission.code), f"export MASTER_PORT={free_port()}"],
            )
            ids.append(str(executor.submit(LocalProcess(job, notes, options.retries)).job_id))
        return ids

    def state(self, record: Record) -> State:
        """Return whether the process of a job is there."""
        return State("RUNNING", True) if is_alive(int(record.job)) else State("ENDED", False)

    def cancel(self, record: Record) -> None:
        """Send SIGTERM to what keeps a job's processes, which hands it on."""
        shell = record.job
        for controller in Path(f"/proc/{shell}/task/{shell}/children").read_text().split():
            os.kill(int(controller), signal.SIGTERM)


class LocalProcess(JobProcess):
    """A process of a job on this machine, where its exit status makes submitit start the job again."""

    def export_ranks(self) -> int:
        """Set the variables by which the processes find each other, here; return the rank of this one."""
        rank = super().export_ranks()
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        return rank

    def leave(self, number: int = 0, frame: object = None) -> None:
        """End in good order, to be started again; also a handler of signals."""
        self.note("stopped")
        sys.exit(LOCAL_REQUEUE_RETURN_CODE)

    def fail(self, error: Exception) -> None:
        """Note a failure, once for all processes of a start, and start again if any retry is left."""
        if self.count("failed") < self.count("started"):
            self.note("failed", type(error).__name__)
        if self.count("failed") <= self.retries:
            traceback.print_exception(error)
            sys.exit(LOCAL_REQUEUE_RETURN_CODE)

    def count(self, event: str) -> int:
        """Return how many lines the notes on an event have."""
        path = self.note_file(event)
        return len(path.read_text().splitlines()) if path.exists() else 0


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
