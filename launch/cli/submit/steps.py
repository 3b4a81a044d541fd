"""From a stage's command line to a queued job: settings frozen, folder claimed, code copied."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcmae.core.device import check_device_name
from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli import evaluate, finetune, pretrain, probe
from fcmae.launch.cluster.code import PACKAGE, snapshot
from fcmae.launch.cluster.job import Job
from fcmae.launch.cluster.options import Submission
from fcmae.launch.cluster.records import cluster_state, read_record, write_record
from fcmae.launch.cluster.slurm import batch_script, check_cluster, check_folder, script_options, submit

TRAINING: dict[str, Callable[[list[str]], Any]] = {"pretrain": pretrain.read, "finetune": finetune.read}
MEASURING: dict[str, Callable[[list[str]], Any]] = {"evaluate": evaluate.read, "probe": probe.read}
MEASURING_PARSERS: dict[str, Callable[[], Parser]] = {
    "evaluate": evaluate.make_parser,
    "probe": probe.make_parser,
}
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


def check_job(name: str, submission: Submission) -> None:
    """Let the cluster refuse what is asked of it, while nothing has been written yet."""
    if submission.job.cluster == "slurm":
        folder = RunFolder(Path.cwd()).jobs
        check_cluster(
            batch_script(script_options(submission, folder, PACKAGE.parent, f"fcmae-{name}"), folder)
        )


def freeze(name: str, words: list[str], submission: Submission, *, acquire: bool = True) -> Stage:
    """Check a stage's settings, acquire its run folder, and say the command line that repeats them.

    Args:
        acquire: false only checks, and writes nothing

    Raises:
        UserError: a setting that cannot work
    """
    if name in MEASURING:
        check_measuring(name, words)
        return Stage(name, words, Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute())
    config = read_training(name, words, submission)
    device = config.device if config.device == "cpu" else "auto"  # this machine may have no GPU
    folder = find_folder(name, replace(config, device=device), acquire)
    return Stage(name, frozen_words(folder), folder)


def read_training(name: str, words: list[str], submission: Submission) -> Any:
    """The settings of a stage that trains, after seeing that its batch divides by the job's processes.

    Raises:
        UserError: it does not, or the device is none
    """
    config = TRAINING[name](words)
    check_device_name(config.device)
    processes = submission.job.processes * config.optim.accumulation_steps
    if config.batch_size % processes:
        raise UserError(
            f"batch size {config.batch_size} does not divide by {submission.job.processes} processes x "
            f"{config.optim.accumulation_steps} accumulation steps: choose a multiple of {processes}"
        )
    return config


def check_measuring(name: str, words: list[str], weights_exist: bool = True) -> None:
    """Check the options of a stage that measures; whether its device is there, the job will see.

    Raises:
        UserError: an option that cannot be, or weights that cannot be measured so, where they exist
    """
    check_device_name(MEASURING_PARSERS[name]().read(words).device)
    if weights_exist:
        MEASURING[name]([*words, "--device", "auto"])


def find_folder(name: str, config: Any, acquire: bool) -> Path:
    """Check a run, and acquire its folder; the lock is let go of when it is written: the job takes it."""
    if name == "pretrain":
        from fcmae.pretraining.prepare import prepare

        return prepare(config, acquire=acquire).path.absolute()
    from fcmae.finetune.prepare import prepare as prepare_finetuning

    return prepare_finetuning(config, acquire=acquire)[1].path.absolute()


def frozen_words(folder: Path) -> list[str]:
    """The command line that goes on with the run in a folder."""
    return ["--config", str(RunFolder(folder).config), "--out", str(folder), "--loop.resume", "true"]


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
    notes, code = RunFolder(root).jobs, RunFolder(root).code
    notes.mkdir(parents=True, exist_ok=True)
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
        write_record(stage.folder, job=job_id, cluster=submission.job.cluster, stage=stage.name, notes=notes)
    return ids


def refuse_second_job(folder: Path) -> None:
    """Refuse to queue a run that a job is still queued for or running in.

    To be called before the run is claimed anew: that job reads the settings that lie in its folder.

    Raises:
        UserError: see above
    """
    record = read_record(folder)
    state = cluster_state(record) if record else None
    if record and state and state.active:
        raise UserError(
            f"{folder}: job {record['job']} is {state.name.lower()} for this run; fcmae jobs {folder} shows "
            f"it, fcmae jobs {folder} --cancel ends it"
        )
