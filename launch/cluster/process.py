"""What each process of a job does: run the command, and note how it ended."""

import os
import runpy
import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from submitit.helpers import TorchDistributedEnvironment

from fcmae.core.world import find_world
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cluster.records import Notes

INTERRUPTED = 128 + signal.SIGINT  # the user's wish
MISTAKE = 2  # the user's
TERMINATED = 128 + signal.SIGTERM  # saved: the user's wish, or a preemption; the cluster knows which
STOPPED = 128 + signal.SIGUSR2  # a signal before preemption or the time limit: saved, to be queued again


@dataclass(frozen=True)
class JobProcess:
    """One process of a job; which one it is, the environment tells.

    How the job ended is noted in files `<job id>.<event>`, because the exit status of several processes, of
    which one may have been killed, says little: `stopped` is there when SIGUSR2 stopped the run in time,
    `terminated` when SIGTERM did, `final` when starting again is of no use (the user has to mend something,
    or pressed Ctrl-C), and `done` when the command ended well. What starts the processes reads them, and
    adds a line to `started` for each start and to `failed` for each failure: on SLURM the batch script, on
    this machine the keeper.

    Args:
        notes: of the job
        folder: absolute; of the run
        argv: the command line after `fcmae`
    """

    notes: Notes
    folder: Path
    argv: list[str]

    def __call__(self) -> int:
        """Run the command; return the exit status for the cluster, 0 also for one that was stopped."""
        signal.signal(signal.SIGUSR2, self.leave)  # until the training loop takes it
        if "SUBMITIT_EXECUTOR" in os.environ:  # which translates SLURM's variables
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        logged = self.logged()
        status = run_fcmae(self.argv)
        if status == STOPPED:
            self.notes.add("stopped")
            return 0
        if status == 0:
            for number in (signal.SIGTERM, signal.SIGUSR2):  # it is done, whoever wants it to end
                signal.signal(number, signal.SIG_IGN)
            if find_world().is_rank_zero:
                self.notes.add("done")
        elif status == TERMINATED:
            self.notes.add("terminated")
        elif status == INTERRUPTED or (status == MISTAKE and not self.may_be_stale(logged)):
            self.notes.add("final")
        return status

    def leave(self, number: int, frame: FrameType | None) -> NoReturn:
        """Handle a signal by which the job is to start again: nothing is there to be saved yet."""
        self.notes.add("stopped")
        end_process(0)

    def may_be_stale(self, logged: int) -> bool:
        """Return whether a mistake may be an old listing of a shared folder: before the first step, and once.

        Args:
            logged: size of the run's log at the start, in bytes
        """
        return self.logged() <= logged and not self.notes.lines("failed")

    def logged(self) -> int:
        """Return the size of the run's log in bytes: it grows with the steps."""
        log = RunFolder(self.folder).log_file
        return log.stat().st_size if log.exists() else 0


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


def end_process(status: int) -> NoReturn:
    """End at once: in Python's shutdown, threads of libraries abort some processes, and others with them."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    end_process(JobProcess(Notes(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3:])())
