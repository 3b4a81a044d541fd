"""What each process of a job does under submitit: run the command, and note how it ended."""

import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from submitit import JobEnvironment
from submitit.helpers import TorchDistributedEnvironment

from fcmae.launch.cluster.job import Job
from fcmae.launch.cluster.records import note_file

FINAL = (2, 128 + signal.SIGINT)  # the user's error, or the user's wish
TERMINATED = 128 + signal.SIGTERM  # saved: the user's wish, or a preemption; the cluster knows which
STOPPED = 128 + signal.SIGUSR2  # a signal before preemption or the time limit: saved, to be queued again


@dataclass(frozen=True)
class JobProcess:
    """What submitit calls in each process of a job.

    How the job ended is noted in files `<job id>.<event>`, because the exit status of several processes, of
    which one may have been killed, says little: `started` has a line for each start, `stopped` is there when
    SIGUSR2 stopped the run in time, `terminated` when SIGTERM did, `final` when starting again is of no use
    (the user has to mend something, or pressed Ctrl-C), `failed` has a line for each failure, and `done` is
    there when the command ended well. Here a batch script reads them, and starts the job again.

    Args:
        job: what to run
        notes: absolute; the folder for the notes
        retries: how often a failed job may start again
    """

    job: Job
    notes: Path
    retries: int

    def __call__(self) -> None:
        """Run the command.

        Raises:
            SystemExit: unless it ended well
        """
        if self.job.resumes:
            signal.signal(signal.SIGUSR2, self.leave)  # until the training loop takes it
        rank = self.export_ranks()
        if rank == 0:
            self.note("started", f"on {os.uname().nodename}")
        logging.getLogger("submitit").propagate = False  # it has its own handler
        try:
            status = self.job.run(self.job.argv)
        except Exception as error:
            self.fail(error)
            raise
        if status == STOPPED:
            self.leave()
        if status in FINAL:
            self.note("final")
        if status == TERMINATED:
            self.note("terminated")
        if status == 0 and rank == 0:
            self.note("done")
        if status:
            sys.exit(status)

    def export_ranks(self) -> int:
        """Set the variables by which the processes find each other; return the rank of this one."""
        rank: int = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True).rank
        return rank

    def leave(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End in good order, to be started again; also a handler of signals."""
        self.note("stopped")
        sys.exit(0)

    def fail(self, error: Exception) -> None:
        """Note a failure where no batch script counts them; there is one here."""

    def note(self, event: str, text: str = "") -> None:
        """Add a line to the notes on an event."""
        with self.note_file(event).open("a") as file:
            file.write(f"{text}\n")

    def note_file(self, event: str) -> Path:
        """Return the file of an event of this job."""
        return note_file(self.notes, JobEnvironment().job_id, event)
