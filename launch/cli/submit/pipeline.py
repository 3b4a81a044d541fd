"""`fcmae submit pipeline`: stages one after another, each on the weights of the one before."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically
from fcmae.engine.run_folder import RunFolder, plain
from fcmae.launch.cli.submit.steps import (
    MEASURING,
    STAGES,
    TRAINING,
    Stage,
    check_job,
    check_measuring,
    freeze,
    queue,
    read_training,
    refuse_second_job,
)
from fcmae.launch.cluster.options import Submission, read_submission
from fcmae.launch.cluster.slurm import batch_script, script_options

USAGE = (
    "fcmae submit pipeline [options of the jobs] -- pretrain OPTIONS -- finetune OPTIONS -- evaluate OPTIONS"
)


def submit_pipeline(argv: list[str]) -> int:
    """Queue stages that wait for one another; if one fails for good, those after it are cancelled.

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    parts = split(argv)
    root, job_words = take_out(parts[0])
    submission = read_submission("pipeline", job_words)
    if submission.job.cluster != "slurm" or submission.sweep:
        raise UserError(
            "fcmae submit pipeline needs --cluster slurm, whose jobs wait for one another; no --sweep"
        )
    for words in parts[1:]:
        if not words or words[0] not in STAGES:
            raise UserError(f"a pipeline's stages are {', '.join(STAGES)}: {USAGE}")
    stages = plan(parts[1:], root, submission, acquire=False)
    if submission.dry_run:
        whole = RunFolder(root)
        print(batch_script(script_options(submission, whole.jobs, whole.code, "fcmae-pipeline"), whole.jobs))
        return 0
    check_job("pipeline", submission)
    for stage in stages:
        refuse_second_job(stage.folder)
    stages = plan(parts[1:], root, submission)
    previous = None
    for stage in stages:
        lone = submission if stage.name in TRAINING else on_one_process(submission)
        [previous] = queue([stage], lone, root, f"fcmae-{stage.name}", after=previous)
        print(f"queued job {previous}: {stage.name} in {stage.folder}")
    print(f"  fcmae jobs {root}")
    return 0


def split(argv: list[str]) -> list[list[str]]:
    """The command line cut at each `--`: options of the jobs, then the words of each stage.

    Raises:
        UserError: no stage follows
    """
    parts: list[list[str]] = [[]]
    for word in argv:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    if len(parts) == 1:
        raise UserError(f"a pipeline needs stages: {USAGE}")
    return parts


def take_out(words: list[str]) -> tuple[Path, list[str]]:
    """The pipeline's folder (--out, or runs/pipeline), absolute, and the other words."""
    out, rest = Path("runs/pipeline"), []
    following = iter(words)
    for word in following:
        if word == "--out":
            out = Path(next(following, "runs/pipeline"))
        elif word.startswith("--out="):
            out = Path(word.removeprefix("--out="))
        else:
            rest.append(word)
    return out.absolute(), rest


def plan(parts: list[list[str]], root: Path, submission: Submission, *, acquire: bool = True) -> list[Stage]:
    """The stages with settings frozen, each told where the weights of the one before will be.

    The first stage is checked as if it were alone. A later one cannot look at weights that are not there yet:
    its settings are read now, and looked at closely when its turn comes.

    Args:
        acquire: false only checks, and writes nothing
    """
    stages: list[Stage] = []
    names = [words[0] for words in parts]
    weights: Path | None = None
    for number, (name, *words) in enumerate(parts):
        label = name if names.count(name) == 1 else f"{name}-{names[: number + 1].count(name)}"
        folder = root / label
        if name in MEASURING:
            given = [] if weights is None else ["--weights", str(weights)]
            out = ["--out", str(folder / "figures")] if name == "evaluate" else []
            check_measuring(name, [*words, *given, *out], weights_exist=weights is None)
            stages.append(Stage(name, [*words, *given, *out], folder))
            continue
        if weights is None:
            stages.append(freeze(name, [*words, "--out", str(folder)], submission, acquire=acquire))
        else:
            if name != "finetune":
                raise UserError(f"{name} cannot follow {names[number - 1]}: it starts from no weights")
            complete = [*words, "--init", str(weights), "--out", str(folder)]
            config = read_training(name, complete, submission)
            recipe = root / f"{label}.yaml"
            if acquire:
                write_settings(config, recipe)
            stages.append(Stage(name, ["--config", str(recipe)], folder))
        weights = folder
    return stages


def write_settings(config: Any, path: Path) -> None:
    """Write resolved settings as a recipe, for a run whose folder is acquired later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write(yaml.safe_dump(plain(asdict(config)), sort_keys=False, allow_unicode=True).encode())


def on_one_process(submission: Submission) -> Submission:
    """The same request for a stage that runs in one process, on one GPU where GPUs are asked for."""
    gpus = submission.job.gpus_per_node
    job = replace(submission.job, nodes=1, tasks_per_node=1, gpus_per_node=None if gpus is None else 1)
    return replace(submission, job=job)
