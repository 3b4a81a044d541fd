"""Jobs on SLURM: what is checked before, how they are queued, and what becomes of them."""

import difflib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from submitit.helpers import clean_env

from fcmae.core.errors import UserError
from fcmae.launch.cluster import squeue
from fcmae.launch.cluster.base import Cluster, State
from fcmae.launch.cluster.job import Submission
from fcmae.launch.cluster.records import Record
from fcmae.launch.cluster.script import batch_script, cpus_per_task

OURS = ("array", "error", "open-mode", "output", "parsable", "test-only", "wait", "wrap")  # options of sbatch
WHERE_SLURM_IS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")


class Slurm(Cluster):
    """A SLURM cluster, whose `sbatch`, `squeue` and `scancel` are in PATH."""

    waits = True

    def check_extra(self, extra: dict[str, str]) -> None:
        known = options_of_sbatch() if extra else set()
        for name in extra:
            if name in OURS:
                raise UserError(f"--slurm-{name}: fcmae sets --{name} of sbatch itself")
            if known and name not in known:
                likely = difflib.get_close_matches(name, known - set(OURS), n=3, cutoff=0.6)
                hint = f"did you mean {' or '.join(f'--slurm-{each}' for each in likely)}?" if likely else ""
                raise UserError(
                    f"--slurm-{name}: sbatch has no --{name}; {hint or 'sbatch --help lists what it has'}"
                )

    def check_jobs(self, submission: Submission) -> None:
        """Let SLURM say whether it would take the jobs.

        Raises:
            UserError: there is no SLURM, it refuses (in its own words), or it cannot write to the folder
        """
        if shutil.which("sbatch") is None:
            raise UserError("no SLURM on this machine (sbatch is not in PATH): use --cluster local")
        check_folder(submission.root)
        try:
            sbatch(["--test-only"], self.preview(submission))
        except UserError as error:
            count = cpus_per_task(submission)
            if count is None or submission.options.cpus_per_task is not None:
                raise
            hint = f"{count} CPUs for each process are asked for, unless --cpus-per-task is given"
            raise UserError(f"{error} ({hint})") from None

    def preview(self, submission: Submission) -> str:
        """Return the script that sbatch will be given."""
        return batch_script(submission)

    def submit(self, submission: Submission) -> list[str]:
        """Queue jobs, several of them as an array; return the id of each. The script is kept beside the logs.

        Raises:
            UserError: the cluster refuses
        """
        submission.notes.mkdir(parents=True, exist_ok=True)
        script = batch_script(submission)
        job = sbatch(["--parsable"], script).partition(";")[0].strip()
        (submission.notes / f"{job}_submission.sh").write_text(script)
        count = len(submission.jobs)
        return [job] if count == 1 else [f"{job}_{number}" for number in range(count)]

    def state(self, record: Record) -> State:
        """Return what SLURM says of a job."""
        return self.states([record])[0]

    def states(self, records: list[Record]) -> list[State]:
        """Return what SLURM says of several jobs, in one question."""
        found = squeue.ask([record.job for record in records])
        return [found[record.job] for record in records]

    def cancel(self, record: Record) -> None:
        """End a job by scancel.

        Raises:
            UserError: SLURM does not, in its own words
        """
        try:
            squeue.call(["scancel", record.job])
        except squeue.NoAnswerError as error:
            raise UserError(f"job {record.job} is not cancelled: {error}") from None


def sbatch(options: list[str], script: str) -> str:
    """Give a script to sbatch; return what it prints.

    Raises:
        UserError: SLURM refuses, in its own words, or does not answer in a minute
    """
    command = ["sbatch", *options]
    try:
        answer = subprocess.run(
            command, input=script, env=environment(), capture_output=True, text=True, timeout=60
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{' '.join(command)} does not answer: see squeue before you try again") from error
    if answer.returncode:
        raise UserError(f"SLURM refuses the job: {' '.join(answer.stderr.split())}")
    return answer.stdout


def environment() -> dict[str, str]:
    """Return the variables that a job inherits: none by which this shell is a job itself, or wants one thing.

    Options of sbatch from variables such as SBATCH_PARTITION would win over those of the script.
    """
    where = {name: os.environ[name] for name in WHERE_SLURM_IS if name in os.environ}
    with clean_env():
        return {**os.environ, **where}


def options_of_sbatch() -> set[str]:
    """Return the names of the options that this site's sbatch lists; none where there is no sbatch."""
    try:
        listing = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, timeout=60)
    except OSError:
        return set()
    return set(re.findall(r"--([a-z][a-z-]+)", listing.stdout))


def check_folder(folder: Path) -> None:
    """Refuse a folder that SLURM cannot write to, or a temporary one of this machine where there are others.

    Raises:
        UserError: naming the folder
    """
    if re.search(r"[\\\n]", str(folder)):
        raise UserError(
            f"{str(folder)!r}: SLURM writes to no folder with a backslash or a line break in its name"
        )
    temporary = Path(tempfile.gettempdir()).resolve()
    if temporary in folder.resolve().parents and not cluster_is_here():
        raise UserError(
            f"{folder} is a temporary folder of this machine: choose --out where all nodes see it"
        )


def cluster_is_here() -> bool:
    """Return whether every node of the cluster is this machine."""
    nodes = subprocess.run(["sinfo", "-h", "-N", "-o", "%o"], capture_output=True, text=True, timeout=60)
    here = {socket.gethostname(), "localhost"}
    for name in set(nodes.stdout.split()) - here:
        try:
            if not socket.gethostbyname(name).startswith("127."):
                return False
        except OSError:
            return False
    return nodes.returncode == 0
