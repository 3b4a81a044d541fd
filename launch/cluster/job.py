"""What each process of a job does: one `fcmae` command, and a note of how it ended."""

import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from submitit import JobEnvironment
from submitit.helpers import TorchDistributedEnvironment
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

FINAL = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # the user's error, or the user's wish
STOPPED = 128 + signal.SIGUSR2  # a signal before preemption or the time limit: saved, to be queued again


@dataclass(frozen=True)
class Job:
    """A command that submitit calls in each process of a job, on a cluster or on this machine.

    How the job ended is noted in files `<job id>.<event>`, because the exit status of several processes, of
    which one may have been killed, says little: `started` has a line for each start, `stopped` is there when
    a signal stopped the run in time, `final` when starting again is of no use (the user has to mend
    something, or has ended the job), `failed` has a line for each failure, and `done` is there when the
    command ended well.

    Args:
        words: the command line after `fcmae`
        notes: the folder for the notes, absolute
        retries: how often a failed job may start again
        resumes: whether the command goes on where it was stopped, and so may be stopped as often as it takes
    """

    words: list[str]
    notes: Path
    retries: int
    resumes: bool = True

    def __call__(self) -> None:
        """Run the command.

        Raises:
            SystemExit: unless it ended well; on this machine, with the status that makes submitit start again
        """
        if self.resumes:
            signal.signal(signal.SIGUSR2, self._leave)  # until the training loop takes it
        world = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        if self._local:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        if world.rank == 0:
            self._note("started", f"on {os.uname().nodename}")
        logging.getLogger("submitit").propagate = False  # it has its own handler
        from fcmae.launch.cli.main import main

        try:
            status = main(self.words)
        except Exception as error:
            self._failed(error)
            raise
        if status == STOPPED:
            self._leave()
        if status in FINAL:
            self._note("final")
        if status == 0 and world.rank == 0:
            self._note("done")
        if status:
            sys.exit(status)

    def _leave(self, number: int = 0, frame: FrameType | None = None) -> None:
        """End in good order, to be started again."""
        self._note("stopped")
        sys.exit(LOCAL_REQUEUE_RETURN_CODE if self._local else 0)

    def _failed(self, error: Exception) -> None:
        """On this machine, where no batch script counts the failures, start again if any retry is left."""
        if not self._local:
            return
        self._note("failed", type(error).__name__, once_per_start=True)
        if self._lines("failed") <= self.retries:
            import traceback

            traceback.print_exc()
            sys.exit(LOCAL_REQUEUE_RETURN_CODE)

    @property
    def _local(self) -> bool:
        return os.environ.get("SUBMITIT_EXECUTOR") == "local"

    def _file(self, event: str) -> Path:
        return self.notes / f"{JobEnvironment().job_id}.{event}"

    def _lines(self, event: str) -> int:
        path = self._file(event)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _note(self, event: str, text: str = "", *, once_per_start: bool = False) -> None:
        if once_per_start and self._lines(event) >= self._lines("started"):
            return
        with self._file(event).open("a") as file:
            file.write(f"{text}\n")
