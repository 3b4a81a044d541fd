"""`fcmae submit`: queue one command, a sweep over its settings, or a pipeline."""

from fcmae.core.errors import UserError
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cli.submit.pipeline import submit_pipeline
from fcmae.launch.cli.submit.queue import check, freeze_code, preview, queue
from fcmae.launch.cli.submit.request import Request, read_request
from fcmae.launch.cli.submit.resolve import resolve
from fcmae.launch.cli.submit.sweep import submit_sweep

PIPELINE = "pipeline"


def run(argv: list[str]) -> int:
    """Queue a command, a sweep over its settings, or a pipeline; return the exit status.

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    names = ", ".join([*JOB_COMMANDS, PIPELINE])
    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"fcmae submit COMMAND [options of the job] -- [options of the command]; commands: {names}\n"
            "fcmae submit pretrain --help lists the options of a job, "
            "fcmae pretrain --help those of the command"
        )
        return 0
    name, rest = argv[0], argv[1:]
    if name == PIPELINE and rest[:1] not in (["-h"], ["--help"]):
        return submit_pipeline(rest)
    if name not in (*JOB_COMMANDS, PIPELINE):
        raise UserError(f"fcmae submit {name}: choose one of {names}")
    at = rest.index("--") if "--" in rest else len(rest)
    refuse_command_options(name, rest[:at])
    request = read_request(name, rest[:at])
    if request.sweep:
        return submit_sweep(name, rest[at + 1 :], request)
    return submit_one(name, rest[at + 1 :], request)


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
