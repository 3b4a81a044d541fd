"""`fcmae submit`: freeze a stage's settings and our code, and queue it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcmae.engine.errors import UserError
from fcmae.engine.files import write_atomically
from launch.batch import batch_script, check_cluster, check_folder, script_options, submit
from launch.commands import read_pretraining
from launch.job import Job
from launch.options import Submission, read_submission
from launch.own_code import HOME, snapshot
from launch.second_stage import read_finetuning

JOBS = "jobs"  # folder of logs and notes, in the folder of the run
RECORD = "submitted.json"
TRAINING: dict[str, Callable[[list[str]], Any]] = {"pretrain": read_pretraining, "finetune": read_finetuning}
MEASURING = ("evaluate", "probe")
STAGES = (*TRAINING, *MEASURING)


@dataclass(frozen=True)
class Stage:
    """A stage to queue.

    Args:
        name: the command
        words: its command line after the name, settings frozen
        folder: absolute, of the run, or for the logs of a stage that has no run
    """

    name: str
    words: list[str]
    folder: Path


def submit_command(argv: list[str]) -> int:
    """Queue a stage, a sweep over its settings, or a pipeline of stages.

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    names = ", ".join([*STAGES, "pipeline"])
    if not argv or argv[0] in ("-h", "--help"):
        print(f"fcmae submit STAGE [options of the job] -- [options of the stage]; stages: {names}")
        return 0
    name, rest = argv[0], argv[1:]
    if name == "pipeline":
        from launch.pipeline import submit_pipeline

        return submit_pipeline(rest)
    if name not in STAGES:
        raise UserError(f"fcmae submit {name}: choose one of {names}")
    at = rest.index("--") if "--" in rest else len(rest)
    submission = read_submission(name, rest[:at])
    words = rest[at + 1 :]
    if submission.sweep:
        from launch.sweep import submit_sweep

        return submit_sweep(name, words, submission)
    return submit_stage(name, words, submission)


def submit_stage(name: str, words: list[str], submission: Submission) -> int:
    """Queue one stage."""
    if submission.job.cluster == "debug":
        from launch.cli import main

        return main([name, *words])
    if submission.dry_run:
        folder = Path.cwd() / "RUN_FOLDER" / JOBS
        print(
            batch_script(script_options(submission, folder, folder.parent / "code", f"fcmae-{name}"), folder)
        )
        return 0
    check_job(name, submission)
    stage = freeze(name, words, submission)
    refuse_second_job(stage.folder)
    [job_id] = queue([stage], submission, stage.folder, f"fcmae-{name}")
    print(f"queued job {job_id}; run folder: {stage.folder}\n  fcmae jobs {stage.folder}")
    return 0


def check_job(name: str, submission: Submission) -> None:
    """Let the cluster refuse what is asked of it, while nothing has been written yet."""
    if name in MEASURING and submission.job.processes > 1:
        raise UserError(f"fcmae {name} runs in one process: leave --nodes and --tasks-per-node at 1")
    if submission.job.cluster == "slurm":
        folder = Path.cwd() / JOBS
        check_cluster(batch_script(script_options(submission, folder, HOME, f"fcmae-{name}"), folder))


def freeze(name: str, words: list[str], submission: Submission) -> Stage:
    """Check a stage's settings, claim its run folder, and say the command line that repeats them."""
    if name in MEASURING:
        return Stage(name, words, Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute())
    config = TRAINING[name](words)
    processes = submission.job.processes * config.optim.accumulate
    if config.batch_size % processes:
        raise UserError(
            f"batch size {config.batch_size} does not divide by {submission.job.processes} processes x "
            f"{config.optim.accumulate} accumulated parts: choose a multiple of {processes}"
        )
    device = config.device if config.device == "cpu" else "auto"  # this machine may have no GPU
    folder = claim(name, replace(config, device=device))
    return Stage(name, frozen_words(folder), folder)


def claim(name: str, config: Any) -> Path:
    """Claim the folder of a run, and let go of its lock when it is written: the job takes it."""
    if name == "pretrain":
        from fcmae.prepare import prepare

        return prepare(config).path.absolute()
    from finetune.prepare import prepare as prepare_finetuning

    return prepare_finetuning(config)[1].path.absolute()


def frozen_words(folder: Path) -> list[str]:
    """The command line that goes on with the run in a folder."""
    return ["--config", str(folder / "config.yaml"), "--out", str(folder), "--loop.resume", "true"]


def queue(
    stages: list[Stage], submission: Submission, root: Path, name: str, after: str | None = None
) -> list[str]:
    """Copy our code to `root` and queue stages, each with a record of its job in its folder.

    Args:
        stages: several become an array
        submission: what is asked of the cluster
        root: absolute; holds the code, logs and notes
        name: of the job, where none is asked for
        after: id of the job that has to end well before

    Returns:
        the ids
    """
    notes = root / JOBS
    notes.mkdir(parents=True, exist_ok=True)
    code = root / "code"
    if after is None:
        if submission.job.cluster == "slurm":
            check_folder(root)
        snapshot(root)
    options = script_options(submission, notes, code, name)
    if after is not None:
        options["dependency"] = f"afterok:{after}"
        options["additional_parameters"] |= {"kill-on-invalid-dep": "yes"}
    jobs = [
        Job([stage.name, *stage.words], notes, submission.job.retries, resumes=stage.name in TRAINING)
        for stage in stages
    ]
    ids = submit(jobs, submission, notes, options)
    for stage, job_id in zip(stages, ids, strict=True):
        record = {"job": job_id, "cluster": submission.job.cluster, "stage": stage.name, "notes": str(notes)}
        folder = stage.folder / JOBS
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(folder / RECORD) as file:
            file.write(json.dumps(record).encode())
    return ids


def refuse_second_job(folder: Path) -> None:
    """Refuse to queue a run that a job is still queued for or running in.

    Raises:
        UserError: see above
    """
    from launch.jobs import cluster_state, read_record

    record = read_record(folder)
    state = cluster_state(record) if record else None
    if record and state and state.active:
        raise UserError(
            f"{folder}: job {record['job']} is {state.name.lower()} for this run; fcmae jobs {folder} shows "
            f"it, fcmae jobs {folder} --cancel ends it"
        )
