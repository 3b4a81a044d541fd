"""The batch script of jobs on SLURM: what is asked for, and job.sh, the same for all."""

import shlex
from pathlib import Path

from fcmae.data.config import MOST_WORKERS
from fcmae.launch.cluster.container import python_argv, srun_options
from fcmae.launch.cluster.job import Submission

BODY = Path(__file__).with_name("job.sh")


def batch_script(submission: Submission) -> str:
    """Return the script that sbatch is given, in bash."""
    asked, cores = submission.options, cpus_per_task(submission)
    cpus = [] if cores is None else [f"--cpus-per-task={cores}"]  # which srun does not take over from sbatch
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {option}" for option in sbatch_options(submission)),
            "",
            *which_job(submission),
            f"notes={shlex.quote(str(submission.notes))}",
            f"code={shlex.quote(str(submission.code))}",
            f"retries={asked.retries} stalls={asked.stalls}",
            bash_array("srun", [*cpus, *srun_options(submission)]),
            bash_array("python", python_argv(submission)),
            "setup() {",
            *(f"  {line} || return" for line in asked.setup),
            "  return 0",
            "}",
            "",
            BODY.read_text(),
        ]
    )


def sbatch_options(submission: Submission) -> list[str]:
    """Return the options of sbatch, quoted as a script needs it; what a person gave wins."""
    asked, count = submission.options, len(submission.jobs)
    output = str(submission.notes).replace("%", "%%") + ("/%A_%a_0_log.out" if count > 1 else "/%j_0_log.out")
    options: dict[str, object] = {
        "job-name": submission.name,
        "nodes": asked.nodes,
        "ntasks-per-node": asked.tasks,
        "cpus-per-task": cpus_per_task(submission),
        "gpus-per-node": asked.gpus_per_node,
        "mem": asked.mem,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "exclude": asked.exclude,
        "comment": asked.comment,
        "dependency": None if submission.after is None else f"afterok:{submission.after}",
        "kill-on-invalid-dep": None if submission.after is None else "yes",
        "array": f"0-{count - 1}%{min(count, asked.parallel)}" if count > 1 else None,
        "signal": f"USR2@{asked.signal_seconds}",
        "requeue": "",
        "open-mode": "append",
        "output": output,
        **submission.extra,
    }
    return [
        f"--{name}={shlex.quote(str(value))}" if value != "" else f"--{name}"
        for name, value in options.items()
        if value is not None
    ]


def cpus_per_task(submission: Submission) -> int | None:
    """Return the cores of each process: as asked for, or one and as many as the loader has workers."""
    asked = submission.options
    chosen = MOST_WORKERS if asked.gpus_per_node else None  # by the loader; without GPUs as the cores allow
    workers = [chosen if job.workers is None else job.workers for job in submission.jobs]
    needed = [1 + count for count in workers if count is not None]
    return asked.cpus_per_task or max(needed, default=None)


def which_job(submission: Submission) -> list[str]:
    """Return the lines that set the folder of the run and the words after fcmae."""
    jobs = [
        (f"run={shlex.quote(str(job.folder))}", bash_array("fcmae", [job.command, *job.argv]))
        for job in submission.jobs
    ]
    if len(jobs) == 1:
        return list(jobs[0])
    cases = [f"  {number}) {run} {fcmae} ;;" for number, (run, fcmae) in enumerate(jobs)]
    return ["case $SLURM_ARRAY_TASK_ID in", *cases, "esac"]


def bash_array(name: str, argv: list[str]) -> str:
    """Return the assignment of words to an array of bash."""
    return f"{name}=({shlex.join(argv)})"
