"""`fcmae submit pipeline`: steps one after another, each on the weights of the one before."""

from dataclasses import replace
from pathlib import Path

from fcmae.core.errors import UserError
from fcmae.core.recipes import take_option
from fcmae.data.index import save_lists
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.prepare import list_data
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cli.submit.queue import check, freeze_code, preview, queue, refuse_second_job
from fcmae.launch.cli.submit.request import Request, read_request
from fcmae.launch.cli.submit.resolve import freeze, read_training, resolve, resolve_measuring
from fcmae.launch.cluster.job import Job
from fcmae.launch.cluster.options import JobOptions
from fcmae.launch.cluster.registry import CLUSTERS

USAGE = (
    "fcmae submit pipeline [options of the jobs] -- pretrain OPTIONS -- finetune OPTIONS -- evaluate OPTIONS"
)


def submit_pipeline(argv: list[str]) -> int:
    """Queue steps that wait for one another; if one fails for good, those after it are cancelled.

    Returns:
        the exit status

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    before, *steps = split(argv)
    out, job_argv = take_option(before, "--out")
    root = Path(out or "runs/pipeline").absolute()
    request = read_request("pipeline", job_argv)
    if not request.cluster.waits or request.sweep:
        able = " or ".join(name for name, cluster in CLUSTERS.items() if cluster.waits)
        raise UserError(
            f"fcmae submit pipeline needs --cluster {able}, whose jobs wait for one another; no --sweep"
        )
    for step in steps:
        if not step or step[0] not in JOB_COMMANDS:
            raise UserError(f"a pipeline's steps are {', '.join(JOB_COMMANDS)}: {USAGE}")
    jobs = plan(steps, root, request.options, acquire=False)
    first = request_of(jobs[0], request)
    if request.dry_run:
        print(preview([([job], request_of(job, request)) for job in jobs], root))
        return 0
    check(jobs[:1], first, root)
    for job in jobs[1:]:
        refuse_second_job(job.folder)
    previous, code = None, freeze_code(root)
    for job in plan(steps, root, request.options, acquire=True):
        [previous] = queue([job], request_of(job, request), root, code, after=previous)
        print(f"queued job {previous}: {job.command} in {job.folder}")
    print(f"  fcmae jobs {root}")
    return 0


def split(argv: list[str]) -> list[list[str]]:
    """Return the command line cut at each `--`: options of the jobs, then the command line of each step.

    Raises:
        UserError: no step follows
    """
    parts: list[list[str]] = [[]]
    for word in argv:
        if word == "--":
            parts.append([])
        else:
            parts[-1].append(word)
    if len(parts) == 1:
        raise UserError(f"a pipeline needs steps: {USAGE}")
    return parts


def plan(steps: list[list[str]], root: Path, options: JobOptions, *, acquire: bool) -> list[Job]:
    """Return the jobs of the steps, each told where the weights of the one before will be.

    The first step is checked as if it were alone. A later one cannot look at weights that are not there yet:
    its settings are read now, and looked at closely when its turn comes.

    Args:
        steps: the command line of each, from the command's name on
        root: absolute; the folder of the pipeline
        options: what the jobs ask of the cluster
        acquire: also write settings and make folders the runs' own; else nothing is written

    Raises:
        UserError: a setting that cannot work, or a step that cannot follow another
    """
    jobs: list[Job] = []
    names = [step[0] for step in steps]
    weights: Path | None = None
    for number, (name, *argv) in enumerate(steps):
        label = name if names.count(name) == 1 else f"{name}-{names[: number + 1].count(name)}"
        folder = root / label
        if not JOB_COMMANDS[name].trains:
            jobs.append(plan_measuring(name, argv, folder, weights, options))
            continue
        if weights is None:
            jobs.append(resolve(name, [*argv, "--out", str(folder)], options, acquire=acquire))
        elif name != "finetune":
            raise UserError(f"{name} cannot follow {names[number - 1]}: in a pipeline it comes first")
        else:
            jobs.append(plan_finetuning([*argv, "--init", str(weights)], folder, options, acquire=acquire))
        weights = folder
    return jobs


def plan_finetuning(argv: list[str], folder: Path, options: JobOptions, *, acquire: bool) -> Job:
    """Return the job of a fine-tuning whose first weights are not there yet; its images are listed now.

    Raises:
        UserError: a setting that cannot be, or no images
    """
    config = read_training("finetune", [*argv, "--out", str(folder)], options)
    run = RunFolder(folder)
    if acquire and not run.started:
        folder.mkdir(parents=True, exist_ok=True)
        save_lists(list_data(config, run), run.train_images, run.val_images)
    return freeze("finetune", config, run, options, write=acquire)


def plan_measuring(
    name: str, argv: list[str], folder: Path, weights: Path | None, options: JobOptions
) -> Job:
    """Return the job of a step that measures the weights of the step before, or those that its options name.

    Raises:
        UserError: an option that cannot be
    """
    out, given = JOB_COMMANDS[name].out, [] if weights is None else ["--weights", str(weights)]
    before = [] if out is None else ["--out", str(folder / out)]
    alone = measuring_options(options)
    return resolve_measuring(name, argv, folder, alone, before, given)


def request_of(job: Job, request: Request) -> Request:
    """Return what is asked for a step."""
    if JOB_COMMANDS[job.command].trains:
        return request
    return replace(request, options=measuring_options(request.options))


def measuring_options(options: JobOptions) -> JobOptions:
    """Return what is asked for a step that measures: one process, on one GPU where there are any."""
    gpus = None if options.gpus_per_node is None else 1
    return replace(options, nodes=1, tasks_per_node=1, gpus_per_node=gpus)
