"""`fcmae submit STAGE --sweep`: one run for each combination of values, as an array of jobs."""

import itertools
from pathlib import Path

from fcmae.core.errors import UserError
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.submit.steps import TRAINING, check_job, freeze, queue, refuse_second_job
from fcmae.launch.cluster.options import Submission
from fcmae.launch.cluster.slurm import batch_script, script_options


def submit_sweep(name: str, words: list[str], submission: Submission) -> int:
    """Queue a run for every combination of the swept values, each in a folder of its own.

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    if name not in TRAINING:
        raise UserError(f"--sweep is for {' and '.join(TRAINING)}: {name} trains nothing")
    if submission.job.cluster == "debug":
        raise UserError("--sweep needs --cluster slurm or local")
    points = combinations(submission.sweep)
    root = Path(TRAINING[name](words).out or Path("runs") / f"{name}-sweep").absolute()
    swept = [
        [*words, *point_words(point), "--out", str(root / ",".join(f"{key}={value}" for key, value in point))]
        for point in points
    ]
    stages = [freeze(name, each, submission, acquire=False) for each in swept]
    if submission.dry_run:
        whole = RunFolder(root)
        options = script_options(submission, whole.jobs, whole.code, f"fcmae-{name}")
        print(batch_script(options, whole.jobs, len(points)))
        return 0
    check_job(name, submission)
    for stage in stages:
        refuse_second_job(stage.folder)
    stages = [freeze(name, each, submission) for each in swept]
    ids = queue(stages, submission, root, f"fcmae-{name}")
    print(f"queued {len(ids)} jobs, {ids[0]} to {ids[-1]}; the table of their runs:\n  fcmae jobs {root}")
    return 0


def combinations(sweep: list[str]) -> list[list[tuple[str, str]]]:
    """Every combination of swept values: lists of (name, value).

    Args:
        sweep: `name=value,value`, one for each swept setting

    Raises:
        UserError: a sweep without name or values, or a name swept twice
    """
    axes = []
    for each in sweep:
        name, _, values = each.partition("=")
        listed = [value for value in values.split(",") if value]
        if not name or not listed:
            raise UserError(f"--sweep {each}: expected name=value,value")
        axes.append([(name.removeprefix("--").replace("-", "_"), value) for value in listed])
    names = [axis[0][0] for axis in axes]
    if len(set(names)) < len(names):
        raise UserError(f"--sweep names {max(names, key=names.count)} twice: give all its values at once")
    return [list(point) for point in itertools.product(*axes)]


def point_words(point: list[tuple[str, str]]) -> list[str]:
    """One combination as options of the stage."""
    return [f"--{name}={value}" for name, value in point]
