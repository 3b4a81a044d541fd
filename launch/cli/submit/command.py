"""`fcmae submit`: queue one command, a sweep over its settings, or a pipeline."""

from fcmae.core.errors import UserError
from fcmae.launch.cli.main import COMMANDS
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cli.submit.pipeline import submit_pipeline
from fcmae.launch.cli.submit.queue import check, freeze_code, preview, queue
from fcmae.launch.cli.submit.request import Request, read_request
from fcmae.launch.cli.submit.resolve import resolve
from fcmae.launch.cli.submit.sweep import submit_sweep

PIPELINE = "pipeline"
USAGE = (
    "fcmae submit COMMAND [options of the job] -- [options of the command]",
    "",
    "Queue a command on a cluster, or start it in the background of this machine. It keeps code, settings",
    "and images as they are now, and starts again after preemption, time limits and failures, until it",
    "is done.",
)
EXAMPLES = (
    "8 machines with 8 GPUs each, for three days:",
    "  fcmae submit pretrain --nodes 8 --gpus-per-node 8 --time 3-00:00 -- --data IMAGES --out runs/base",
    "what would be queued: the command line, the batch of each process, the batch script:",
    "  fcmae submit pretrain --dry-run --nodes 8 --gpus-per-node 8 -- --data IMAGES --out runs/base",
    "four runs, as an array, below one folder:",
    "  fcmae submit finetune --sweep optim.lr=1e-3,2e-3 --sweep seed=0,1 -- --data CLASSES --out runs/sweep",
    "one after another:",
    "  fcmae submit pipeline --out runs/all -- pretrain --data IMAGES -- finetune --data CLASSES -- evaluate",
    "on this machine, without SLURM:",
    "  fcmae submit pretrain --cluster local -- --epochs 4",
    "how it goes, and an end:",
    "  fcmae jobs runs/base",
    "  fcmae jobs runs/base --cancel",
)
MORE = (
    "fcmae submit COMMAND --help lists the options of a job, fcmae COMMAND --help those of the command.",
    "Options that every job of a site needs, such as `partition: gpu`, stand in ~/.config/fcmae/slurm.yaml.",
)


def run(argv: list[str]) -> int:
    """Queue a command, a sweep over its settings, or a pipeline; return the exit status.

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, rest = argv[0], argv[1:]
    if name == PIPELINE and rest[:1] not in (["-h"], ["--help"]):
        return submit_pipeline(rest)
    if name not in (*JOB_COMMANDS, PIPELINE):
        raise UserError(f"fcmae submit {name}: choose one of {', '.join((*JOB_COMMANDS, PIPELINE))}")
    at = rest.index("--") if "--" in rest else len(rest)
    refuse_command_options(name, rest[:at])
    request = read_request(name, rest[:at])
    if request.sweep:
        return submit_sweep(name, rest[at + 1 :], request)
    return submit_one(name, rest[at + 1 :], request)


def usage() -> str:
    """Return what `fcmae submit` takes, with examples."""
    summaries = {name: COMMANDS[name][1] for name in JOB_COMMANDS}
    summaries[PIPELINE] = "several of these, each on the weights of the one before"
    lines = [f"  {name:<10} {summary}" for name, summary in summaries.items()]
    return "\n".join([*USAGE, "", "commands:", *lines, "", *EXAMPLES, "", *MORE])


def refuse_command_options(name: str, argv: list[str]) -> None:
    """Refuse options of the command among those of the job.

    Raises:
        UserError: naming the option, and where it goes
    """
    if name not in JOB_COMMANDS:
        return
    options = set(JOB_COMMANDS[name].make_parser().get_defaults().keys())  # keys that can be walked once
    for word in argv:
        option, _, _ = word.partition("=")
        if option.startswith("--") and option.removeprefix("--").replace("-", "_") in options:
            raise UserError(
                f"{option} is an option of the command, and those go after --: "
                f"fcmae submit {name} [options of the job] -- {option} ..."
            )


def submit_one(name: str, argv: list[str], request: Request) -> int:
    """Queue one command, or run it where the cluster queues nothing; return the exit status.

    Raises:
        UserError: a setting that cannot work, or a job that cannot be queued
    """
    if not request.cluster.queues:
        return JOB_COMMANDS[name].run(argv)
    job = resolve(name, argv, request.options, acquire=False)
    if request.dry_run:
        print(preview([([job], request)], job.folder))
        return 0
    check([job], request, job.folder)
    job = resolve(name, argv, request.options, acquire=True)
    [job_id] = queue([job], request, job.folder, freeze_code(job.folder))
    print(f"queued job {job_id}; run folder: {job.folder}\n  fcmae jobs {job.folder}")
    return 0
