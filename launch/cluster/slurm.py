"""Jobs on SLURM, by submitit: the batch script, what is checked before, and what becomes of them."""

import logging
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string

from fcmae.core.errors import UserError
from fcmae.launch.cluster.base import Cluster, State
from fcmae.launch.cluster.code import import_lines
from fcmae.launch.cluster.job import Submission
from fcmae.launch.cluster.options import minutes
from fcmae.launch.cluster.process import JobProcess
from fcmae.launch.cluster.records import Record

ACTIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED")
# Of an earlier start of the job: what decides about this one is written by this one.
BEGIN = """\
job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
note={notes}/$job
rm -f "$note".stopped "$note".terminated "$note".final "$note".done"""
REQUEUE = """\
status=$?
[ -e "$note".done ] && exit 0  # whatever came while the processes shut down
again=
shown=$(scontrol -o show job "$job")
case $shown in
  *JobState=CANCELLED*) exit 143 ;;
  *PreemptTime=[0-9]*) preempted=yes ;;  # a site's signal for it may be SIGTERM, as that of scancel is
  *) preempted= ;;
esac
if [ -e "$note".final ]; then
  again=
elif [ -e "$note".stopped ] || [ -n "$preempted" ]; then  # as often as it takes
  again=yes
elif [ ! -e "$note".terminated ]; then
  echo "exit status $status on $SLURM_JOB_NODELIST" >> "$note".failed
  [ "$(wc -l < "$note".failed)" -le {retries} ] && again=yes
fi
if [ -n "$again" ]; then
  for wait in 1 5 15; do
    scontrol requeue "$SLURM_JOB_ID" && break
    sleep $wait
  done
fi
[ $status -eq 0 ] && status=1  # not done: what waits for this job must not start
exit $status"""


class Slurm(Cluster):
    """A SLURM cluster, whose `sbatch`, `squeue` and `scancel` are in PATH."""

    waits = True

    def check_jobs(self, submission: Submission) -> None:
        """Let SLURM say whether it would take the jobs.

        Raises:
            UserError: there is no SLURM, it refuses (in its own words), or its nodes do not see the folder
        """
        if shutil.which("sbatch") is None:
            raise UserError("no SLURM on this machine (sbatch is not in PATH): use --cluster local")
        test = subprocess.run(
            ["sbatch", "--test-only"],
            input=self.preview(submission),
            capture_output=True,
            text=True,
            timeout=60,
        )
        if test.returncode:
            raise UserError(f"SLURM refuses the job: {' '.join(test.stderr.split())}")
        check_folder(submission.root)

    def preview(self, submission: Submission) -> str:
        """Return the script that submitit will give to sbatch."""
        folder = submission.notes
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        count = len(submission.jobs)
        return str(
            _make_sbatch_string(
                command, folder=folder, map_count=count if count > 1 else None, **script_options(submission)
            )
        )

    def submit(self, submission: Submission) -> list[str]:
        """Queue jobs, several of them as an array; return the id of each.

        Raises:
            UserError: the cluster refuses
        """
        logging.getLogger("submitit").setLevel(logging.ERROR)
        submission.notes.mkdir(parents=True, exist_ok=True)
        executor = submitit.SlurmExecutor(submission.notes)
        executor.update_parameters(**script_options(submission))
        processes = [JobProcess(job, submission.notes, submission.options.retries) for job in submission.jobs]
        try:
            if len(processes) == 1:
                return [str(executor.submit(processes[0]).job_id)]
            with executor.batch():
                queued = [executor.submit(process) for process in processes]
            return [str(job.job_id) for job in queued]
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"SLURM refuses the job: {' '.join(str(error).split())}") from error

    def state(self, record: Record) -> State:
        """Return what squeue says of a job."""
        squeue = ["squeue", "-h", "-j", record.job, "--states=all", "-o", "%T"]
        try:
            answer = subprocess.run(squeue, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return State("UNKNOWN", False)
        if answer.returncode and "Invalid job id" not in answer.stderr:  # which it says of one long ended
            return State("UNKNOWN", False)
        name = (answer.stdout.split() or ["ENDED"])[0]
        return State(name, name in ACTIVE)

    def cancel(self, record: Record) -> None:
        """End a job by scancel."""
        subprocess.run(["scancel", record.job], check=True, timeout=60)


def script_options(submission: Submission) -> dict[str, Any]:
    """Return the arguments for submitit's SLURM executor."""
    asked = submission.options
    additional: dict[str, Any] = {"requeue": True, "time": asked.time, **submission.extra}
    if submission.after is not None:
        additional["kill-on-invalid-dep"] = "yes"
    options = {
        "job_name": submission.name,
        "time": round(minutes(asked.time)),
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks,
        "gpus_per_node": asked.gpus_per_node,
        "cpus_per_task": asked.cpus_per_task,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "exclude": asked.exclude,
        "comment": asked.comment,
        "mem": asked.mem,
        "signal_delay_s": asked.signal_seconds,
        "array_parallelism": asked.parallel,
        "dependency": None if submission.after is None else f"afterok:{submission.after}",
        "stderr_to_stdout": True,
        "srun_args": srun_args(asked.cpus_per_task),
        "setup": [
            *import_lines(submission.code),
            writable_check(submission.notes),
            *BEGIN.format(notes=shlex.quote(str(submission.notes))).splitlines(),
        ],
        "teardown": REQUEUE.format(retries=asked.retries).splitlines(),
        "additional_parameters": additional,
    }
    return {key: value for key, value in options.items() if value is not None}


def srun_args(cpus_per_task: int | None) -> list[str]:
    """Return the arguments of srun, which does not take the number of CPUs from sbatch (22.05 and later)."""
    return ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus_per_task}"] if cpus_per_task else [])]


def writable_check(folder: Path) -> str:
    """Return a shell line that ends the job where its folder cannot be written."""
    quoted = shlex.quote(str(folder))
    return (
        f'touch {quoted}/.writable || {{ echo "fcmae: error:" {quoted} "cannot be written on $(hostname): '
        'choose --out on a file system that all machines share"; exit 2; }'
    )


def check_folder(folder: Path) -> None:
    """Refuse a temporary folder of this machine, where the cluster has others.

    Raises:
        UserError: the nodes do not see the folder
    """
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
