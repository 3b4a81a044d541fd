"""Jobs in the background of this machine, without SLURM."""

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from fcmae.core.device import count_gpus
from fcmae.core.errors import UserError
from fcmae.launch.cluster.base import Cluster, State, no_answer
from fcmae.launch.cluster.code import import_variables
from fcmae.launch.cluster.job import Job, Submission
from fcmae.launch.cluster.keeper import Kept, free_port
from fcmae.launch.cluster.options import JobOptions, minutes
from fcmae.launch.cluster.records import Record, local_id

OUTPUT = 'exec >> "$0/$$@$(uname -n)_0_log.out" 2>&1'  # `$$` is the keeper's id too


class Local(Cluster):
    """This machine. A job's id is that of the process that keeps it, and it knows none of the others."""

    def check_options(self, options: JobOptions) -> None:
        """Refuse more machines than this one, GPUs that it has not, and containers.

        Raises:
            UserError: what is asked for, and what there is
        """
        if options.container:
            raise UserError(f"--container {options.container} is for --cluster slurm")
        if options.nodes > 1:
            raise UserError(f"--nodes {options.nodes}: --cluster {options.cluster} is this one machine")
        asked, there = options.gpus_per_node or 0, count_gpus() if options.gpus_per_node else 0
        if asked > there:
            raise UserError(f"--gpus-per-node {asked}: this machine shows {there}")

    def submit(self, submission: Submission) -> list[str]:
        """Start jobs, all at once; return their ids.

        Raises:
            UserError: the port that MASTER_PORT names for the processes to meet is in use
        """
        free_port()
        submission.notes.mkdir(parents=True, exist_ok=True)
        return [start(job, submission) for job in submission.jobs]

    def state(self, record: Record) -> State:
        """Return whether the process that keeps a job is there; only the machine that it is on can tell."""
        process, _, host = record.job.partition("@")
        here = os.uname().nodename
        if host and host != here and not record.noted("done"):
            return no_answer(f"it was started on {host}, and this is {here}")
        return State("RUNNING", True) if is_alive(int(process), record.notes) else State("ENDED", False)

    def cancel(self, record: Record) -> None:
        """Send SIGTERM to what keeps a job's processes, which hands it on."""
        with suppress(ProcessLookupError):
            os.kill(int(record.job.partition("@")[0]), signal.SIGTERM)


def start(job: Job, submission: Submission) -> str:
    """Start what keeps a job, apart from this process, its terminal and its output; return the job's id."""
    asked = submission.options
    kept = Kept(
        str(submission.notes),
        str(job.folder),
        [job.command, *job.argv],
        asked.tasks,
        60 * minutes(asked.time),
        asked.signal_seconds,
        asked.retries,
        asked.stalls,
    )
    python = shlex.split(asked.python) if asked.python else [sys.executable]
    script = "\n".join([OUTPUT, *(f"{line} || exit" for line in asked.setup), 'exec "$@"'])
    process = subprocess.Popen(
        ["bash", "-c", script, kept.notes, *python, *kept.keeper],
        env=environment(submission),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return local_id(process.pid)


def environment(submission: Submission) -> dict[str, str]:
    """Return the variables of a job: it imports the copy of our package, and sees the GPUs asked for."""
    variables = {**os.environ, **import_variables(submission.code)}
    variables.pop("SUBMITIT_EXECUTOR", None)  # this process may be a job's itself
    count = submission.options.gpus_per_node or 0
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = shown.split(",") if shown else [str(number) for number in range(count)]
    return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(numbers[:count])}


def is_alive(process: int, notes: str) -> bool:
    """Return whether a process of that number is there and keeps a job with these notes."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return b"fcmae.launch.cluster.keeper" in command and os.fsencode(notes) in command
