"""What each process of a job does: run the command, and note how it ended."""

import logging
import runpy
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from submitit import JobEnvironment
from submitit.helpers import TorchDistributedEnvironment

from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cluster.records import note_file

INTERRUPTED = 128 + signal.SIGINT  # the user's wish
MISTAKE = 2  # the user's
TERMINATED = 128 + signal.SIGTERM  # saved: the user's wish, or a preemption; the cluster knows which
STOPPED = 128 + signal.SIGUSR2  # a signal before preemption or the time limit: saved, to be queued again


@dataclass(frozen=True)
class JobProcess:
    """One process of a job; which one it is, submitit tells from the environment.

    How the job ended is noted in files `<job id>.<event>`, because the exit status of several processes, of
    which one may have been killed, says little: `stopped` is there when SIGUSR2 stopped the run in time,
    `terminated` when SIGTERM did, `final` when starting again is of no use (the user has to mend something,
    or pressed Ctrl-C), and `done` when the command ended well. What starts the processes reads them, and
    adds a line to `started` for each start and to `failed` for each failure: on SLURM it is the batch script.

    Args:
        notes: absolute; the folder for the notes
        folder: absolute; of the run
        argv: the command line after `fcmae`
    """

    notes: Path
    folder: Path
    argv: list[str]

    def __call__(self) -> None:
        """Run the command.

        Raises:
            SystemExit: unless it ended well
        """
        signal.signal(signal.SIGUSR2, self.leave)  # until the training loop takes it
        rank: int = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True).rank
        self.begin(rank)
        logging.getLogger("submitit").propagate = False  # it has its own handler
        logged = self.logged()
        status = run_fcmae(self.argv)
        if status == STOPPED:
            self.leave()
        if status == 0:
            for number in (signal.SIGTERM, signal.SIGUSR2):  # a shutdown that is disturbed is no failure
                signal.signal(number, signal.SIG_IGN)
            if rank == 0:
                self.note("done")
            return
        if status == TERMINATED:
            self.note("terminated")
        elif status == INTERRUPTED or (status == MISTAKE and not self.may_be_stale(logged)):
            self.note("final")
        else:
            self.fail(status)
        sys.exit(status)

    def begin(self, rank: int) -> None:
        """Note a start, where no batch script does."""

    def leave(self, number: int = 0, frame: FrameType | None = None) -> NoReturn:
        """End in good order, to be started again; also a handler of signals."""
        self.note("stopped")
        sys.exit(0)

    def fail(self, status: int) -> None:
        """Note a failure, where no batch script does, and leave where another start is due."""

    def may_be_stale(self, logged: int) -> bool:
        """Return whether a mistake may be an old listing of a shared folder: before the first step, and once.

        Args:
            logged: size of the run's log at the start, in bytes
        """
        return self.logged() <= logged and not self.noted("failed")

    def logged(self) -> int:
        """Return the size of the run's log in bytes: it grows with the steps."""
        log = RunFolder(self.folder).log_file
        return log.stat().st_size if log.exists() else 0

    def note(self, event: str, text: str = "") -> None:
        """Add a line to the notes on an event."""
        with self.note_file(event).open("a") as file:
            file.write(f"{text}\n")

    def noted(self, event: str) -> int:
        """Return how many lines the notes on an event have."""
        path = self.note_file(event)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def note_file(self, event: str) -> Path:
        """Return the file of an event of this job."""
        return note_file(self.notes, JobEnvironment().job_id, event)


def run_fcmae(argv: list[str]) -> int:
    """Run a command line as `python -m fcmae` does, in this process; return the exit status."""
    sys.argv = ["fcmae", *argv]
    try:
        runpy.run_module("fcmae", run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    JobProcess(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])()
