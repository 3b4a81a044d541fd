"""Jobs given to submitit: the batch script, what is checked before anything is queued, and the queueing."""

import logging
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fcmae.core.errors import UserError
from fcmae.launch.cluster.job import Job
from fcmae.launch.cluster.options import JobOptions, Submission, minutes

REQUEUE = """\
status=$?
end={notes}/${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
if [ -e $end.stopped ]; then  # saved before preemption or the time limit: as often as it takes
  rm $end.stopped
  scontrol requeue $SLURM_JOB_ID
elif [ $status -ne 0 ] && [ ! -e $end.final ]; then  # it failed; scancel would have ended this script too
  echo "exit status $status on $SLURM_JOB_NODELIST" >> $end.failed
  [ $(wc -l < $end.failed) -le {retries} ] && scontrol requeue $SLURM_JOB_ID
fi
exit $status"""


def script_options(submission: Submission, folder: Path, code: Path, name: str) -> dict[str, Any]:
    """The arguments for submitit's SLURM executor.

    Args:
        submission: what is asked for
        folder: absolute, for logs and notes
        code: the copy of our packages that the job imports
        name: name in the queue, where none is asked for
    """
    job = submission.job
    options = {
        "job_name": job.job_name or name,
        "time": round(minutes(job.time)),
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks,
        "gpus_per_node": job.gpus_per_node,
        "cpus_per_task": job.cpus_per_task,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "exclude": job.exclude,
        "comment": job.comment,
        "mem": job.mem,
        "signal_delay_s": job.signal_seconds,
        "array_parallelism": job.parallel,
        "stderr_to_stdout": True,
        "srun_args": ["--kill-on-bad-exit=1"],
        "setup": [*environment(code), writable_check(folder)],
        "teardown": REQUEUE.format(notes=shlex.quote(str(folder)), retries=job.retries).splitlines(),
        "additional_parameters": {"requeue": True, "time": job.time, **submission.extra},
    }
    return {key: value for key, value in options.items() if value is not None}


def environment(code: Path) -> list[str]:
    """Shell lines after which Python imports the copied code, whatever lies in the working directory."""
    return [f"export PYTHONPATH={shlex.quote(str(code))}"]


def writable_check(folder: Path) -> str:
    """A shell line that ends the job where its folder cannot be written."""
    quoted = shlex.quote(str(folder))
    return (
        f'touch {quoted}/.writable || {{ echo "fcmae: error: {folder} cannot be written on $(hostname): '
        'choose --out on a file system that all machines share"; exit 2; }'
    )


def batch_script(options: dict[str, Any], folder: Path, count: int = 1) -> str:
    """The script that submitit will give to sbatch, for one job or an array of `count`."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    return str(_make_sbatch_string(command, folder=folder, map_count=count if count > 1 else None, **options))


def check_cluster(script: str) -> None:
    """Let SLURM say whether it would take the job.

    Raises:
        UserError: there is no SLURM, or it refuses (in its own words)
    """
    if shutil.which("sbatch") is None:
        raise UserError("no SLURM on this machine (sbatch is not in PATH): use --cluster local")
    test = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=60)
    if test.returncode:
        raise UserError(f"SLURM refuses the job: {' '.join(test.stderr.split())}")


def check_folder(folder: Path) -> None:
    """Refuse a temporary folder of this machine, where the cluster has others.

    Raises:
        UserError: see above
    """
    temporary = Path(tempfile.gettempdir()).resolve()
    if temporary in folder.resolve().parents and not cluster_is_here():
        raise UserError(
            f"{folder} is a temporary folder of this machine: choose --out where all nodes see it"
        )


def cluster_is_here() -> bool:
    """Whether every node of the cluster is this machine."""
    nodes = subprocess.run(["sinfo", "-h", "-N", "-o", "%o"], capture_output=True, text=True, timeout=60)
    here = {socket.gethostname(), "localhost"}
    for name in set(nodes.stdout.split()) - here:
        try:
            if not socket.gethostbyname(name).startswith("127."):
                return False
        except OSError:
            return False
    return nodes.returncode == 0


def submit(jobs: list[Job], submission: Submission, folder: Path, options: dict[str, Any]) -> list[str]:
    """Queue jobs, several of them as an array; returns their ids.

    Args:
        jobs: what to run
        submission: where
        folder: absolute, for logs and notes
        options: from `script_options`

    Raises:
        UserError: the cluster refuses
    """
    import submitit

    logging.getLogger("submitit").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    if submission.job.cluster == "local":
        return [submit_here(job, submission.job, folder, options["setup"]) for job in jobs]
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(**options)
    try:
        if len(jobs) == 1:
            return [str(executor.submit(jobs[0]).job_id)]
        with executor.batch():
            queued = [executor.submit(job) for job in jobs]
        return [str(job.job_id) for job in queued]
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"SLURM refuses the job: {' '.join(str(error).split())}") from error


def submit_here(job: Job, options: JobOptions, folder: Path, setup: list[str]) -> str:
    """Start a job in the background of this machine; returns its id, which is that of its process."""
    import submitit

    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=minutes(options.time),
        tasks_per_node=options.tasks,
        gpus_per_node=options.gpus_per_node or 0,
        signal_delay_s=options.signal_seconds,
        stderr_to_stdout=True,
        setup=[*setup, f"export MASTER_PORT={free_port()}"],
    )
    return str(executor.submit(job).job_id)


def free_port() -> int:
    """The port of MASTER_PORT, or any other, after seeing that nobody listens on it.

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
