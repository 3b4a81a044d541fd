"""What keeps a job on this machine: starts its processes, hands signals on, and starts them again.

It decides as the batch script on SLURM does, by the same notes, see `process.JobProcess`.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from fcmae.core.errors import UserError
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cluster.process import INTERRUPTED, TERMINATED
from fcmae.launch.cluster.records import Notes, local_id

PERIOD = 0.1  # seconds between looks at the processes
GRACE = 30.0  # seconds that processes have to end once another has failed, and from SIGTERM to SIGKILL
ENDINGS = ("stopped", "terminated", "final", "done")  # events; those of an earlier start decide nothing
WISHED = (0, INTERRUPTED, TERMINATED)  # exit statuses that are no failures


@dataclass(frozen=True)
class Kept:
    """A job on this machine.

    Args:
        notes: absolute; the folder for logs and notes
        folder: absolute; of the run
        argv: the command line after `fcmae`
        processes: how many there are
        seconds: time limit of each start
        signal_seconds: how long before it the processes are told to save, and start again
        retries: how often a job that failed may start again
        stalls: starts that may end after the same step, without a new checkpoint
    """

    notes: str
    folder: str
    argv: list[str]
    processes: int
    seconds: float
    signal_seconds: float
    retries: int
    stalls: int

    @property
    def keeper(self) -> list[str]:
        """What Python is given to keep it."""
        return ["-m", "fcmae.launch.cluster.keeper", json.dumps(asdict(self), ensure_ascii=False)]


class Keeper:
    """The process that keeps a job, whose id is the process's own."""

    def __init__(self, kept: Kept) -> None:
        self.kept, self.cancelled = kept, False
        self.notes = Notes(Path(kept.notes, local_id(os.getpid())))
        self.processes: list[subprocess.Popen[bytes]] = []

    def keep(self) -> int:
        """Start the processes as often as it takes; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.cancel)
        while True:
            for event in ENDINGS:
                self.notes.file(event).unlink(missing_ok=True)
            where = f"after step {newest_step(Path(self.kept.folder))}"
            self.notes.add("started", f"on {os.uname().nodename} {where}")
            if sum(line.endswith(f" {where}") for line in self.notes.lines("started")) > self.kept.stalls:
                print(f"fcmae: error: {self.kept.stalls} starts saved nothing {where}", flush=True)
                return 1
            failed = self.start()
            if self.notes.file("done").exists():
                return 0
            if self.cancelled or not self.starts_again(failed):
                return 1

    def start(self) -> int | None:
        """Start the processes once and wait for all; return the rank of the first that failed, if any has."""
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        self.processes = [self.start_process(rank, meeting) for rank in range(self.kept.processes)]
        end = time.monotonic() + self.kept.seconds
        due = [(end - self.kept.signal_seconds, signal.SIGUSR2), (end, signal.SIGKILL)]
        failed = None
        while any(process.poll() is None for process in self.processes):
            time.sleep(PERIOD)
            now = time.monotonic()
            if failed is None and (failed := self.find_failure()) is not None:
                due = [(now + GRACE, signal.SIGTERM), (now + 2 * GRACE, signal.SIGKILL)]
            if due and now > due[0][0]:
                self.send(due.pop(0)[1])
        return self.find_failure() if failed is None else failed

    def start_process(self, rank: int, meeting: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Start one of the processes, with the variables by which they find each other."""
        size = str(self.kept.processes)
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        argv = [str(self.notes.prefix), self.kept.folder, *self.kept.argv]
        with self.notes.output(rank).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-u", "-m", "fcmae.launch.cluster.process", *argv],
                env={**os.environ, **meeting, **ranks},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def find_failure(self) -> int | None:
        """Return the rank of a process that has failed, if any has; one that was killed comes first."""
        statuses = {rank: process.poll() for rank, process in enumerate(self.processes)}
        failed = [rank for rank, status in statuses.items() if status is not None and status not in WISHED]
        return min(failed, key=lambda rank: ((statuses[rank] or 0) > 0, rank), default=None)

    def starts_again(self, failed: int | None) -> bool:
        """Return whether the processes are to start again, after noting a failure where it was one."""
        if self.notes.file("final").exists():
            return False
        if self.notes.file("stopped").exists():
            return True
        if self.notes.file("terminated").exists():
            return False
        rank = failed or 0
        self.notes.add("failed", f"process {rank}: exit status {self.processes[rank].returncode}")
        return len(self.notes.lines("failed")) <= self.kept.retries

    def cancel(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on, after which nothing starts again."""
        self.cancelled = True
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the processes that are there."""
        for process in self.processes:
            process.send_signal(number)


def newest_step(run: Path) -> int:
    """Return the step of a run's newest checkpoint; 0 where there is none."""
    steps = [
        re.fullmatch(r"step_(\d+)(\.pt)?", path.name) for path in RunFolder(run).checkpoints.glob("step_*")
    ]
    return max((int(step[1]) for step in steps if step), default=0)


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


if __name__ == "__main__":
    sys.exit(Keeper(Kept(**json.loads(sys.argv[1]))).keep())
