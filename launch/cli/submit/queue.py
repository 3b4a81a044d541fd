"""From jobs to the queue of a cluster: the last checks, our code frozen, each run told its job."""

from pathlib import Path

from fcmae.core.errors import UserError
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.submit.request import Request
from fcmae.launch.cluster.code import expected, snapshot
from fcmae.launch.cluster.job import Job, Submission
from fcmae.launch.cluster.records import Record, read_record, write_record
from fcmae.launch.cluster.registry import find_cluster


def preview(steps: list[tuple[list[Job], Request]], root: Path) -> str:
    """Return what would be queued, for a person to read: each job's command line, and the cluster's scripts.

    Args:
        steps: jobs, several as an array, and what is asked for them; each step waits for the one before
        root: absolute; the folder of the whole
    """
    code = expected(RunFolder(root).code)
    total = sum(len(jobs) for jobs, _ in steps)
    lines: list[str] = []
    scripts: list[str] = []
    number = 0
    for place, (jobs, request) in enumerate(steps):
        before = f"JOB_{number}" if place else None
        for job in jobs:
            number += 1
            waits = f", after {number - 1} is done" if place else ""
            lines += [f"# {number} of {total}{waits}: {job.batch}; folder {job.folder}", job.command_line]
        script = request.cluster.preview(_submission(jobs, request, root, code, before))
        if script:
            which = f"{number}" if len(jobs) == 1 else f"{number - len(jobs) + 1} to {number}, one array"
            scripts += ["", f"# what the cluster is given for {which}", script]
    return "\n".join([*lines, *scripts])


def check(jobs: list[Job], request: Request, root: Path) -> None:
    """Refuse jobs that the cluster would not take, or whose run has a job already; nothing is written.

    To be called before a run's folder is acquired anew: a job that waits reads the settings that lie there.

    Args:
        jobs: several become an array
        request: what is asked of the cluster
        root: absolute; the folder of the whole

    Raises:
        UserError: in the cluster's words, or naming the job that the run has
    """
    request.cluster.check_jobs(_submission(jobs, request, root, expected(RunFolder(root).code)))
    for job in jobs:
        refuse_second_job(job.folder)


def refuse_second_job(run: Path) -> None:
    """Refuse to queue a run that a job is still queued for or running in, as far as anybody knows.

    Raises:
        UserError: there is such a job, or the cluster does not say whether there is
    """
    record = read_record(run)
    state = find_cluster(record.cluster).state(record) if record else None
    if record and state and state.active is None:
        raise UserError(
            f"{run}: whether job {record.job} is still there for this run is not known ({state.reason}); try "
            f"again later, or where you know that it has ended delete {RunFolder(run).submitted}"
        )
    if record and state and state.active:
        raise UserError(
            f"{run}: job {record.job} is {state.name.lower()} for this run; fcmae jobs {run} shows "
            f"it, fcmae jobs {run} --cancel ends it"
        )


def freeze_code(root: Path) -> Path:
    """Copy our code into the folder of the whole; return where the copy is."""
    return snapshot(RunFolder(root).code)


def queue(jobs: list[Job], request: Request, root: Path, code: Path, after: str | None = None) -> list[str]:
    """Queue jobs, each with a record in its own folder.

    Args:
        jobs, request, root: as for `check`
        code: what `freeze_code` returned
        after: id of the job that has to end well before, if any

    Returns:
        the ids

    Raises:
        UserError: the cluster refuses
    """
    submission = _submission(jobs, request, root, code, after)
    submission.notes.mkdir(parents=True, exist_ok=True)
    ids = request.cluster.submit(submission)
    for job, job_id in zip(jobs, ids, strict=True):
        record = Record(job_id, request.options.cluster, job.command, str(submission.notes))
        write_record(job.folder, record)
    return ids


def _submission(
    jobs: list[Job], request: Request, root: Path, code: Path, after: str | None = None
) -> Submission:
    name = request.options.job_name or f"fcmae-{jobs[0].command}"
    return Submission(jobs, request.options, root, code, name, request.extra, after)
