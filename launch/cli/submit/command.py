"""`fcmae submit`: one stage, a sweep over its settings, or a pipeline."""

from collections.abc import Callable

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser, settings_parser
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig
from fcmae.launch.cli.submit.pipeline import submit_pipeline
from fcmae.launch.cli.submit.steps import (
    MEASURING_PARSERS,
    STAGES,
    check_job,
    freeze,
    queue,
    refuse_second_job,
)
from fcmae.launch.cli.submit.sweep import submit_sweep
from fcmae.launch.cluster.options import Submission, read_submission
from fcmae.launch.cluster.slurm import batch_script, script_options
from fcmae.pretraining.config import PretrainConfig

STAGE_PARSERS: dict[str, Callable[[], Parser]] = {
    "pretrain": lambda: settings_parser(PretrainConfig, "fcmae pretrain", ""),
    "finetune": lambda: settings_parser(FinetuneConfig, "fcmae finetune", ""),
    **MEASURING_PARSERS,
}


def run(argv: list[str]) -> int:
    """Queue a stage, a sweep over its settings, or a pipeline of stages.

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    names = ", ".join([*STAGES, "pipeline"])
    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"fcmae submit STAGE [options of the job] -- [options of the stage]; stages: {names}\n"
            "fcmae submit pretrain --help lists the options of a job, fcmae pretrain --help those of a stage"
        )
        return 0
    name, rest = argv[0], argv[1:]
    if name == "pipeline" and rest[:1] not in (["-h"], ["--help"]):
        return submit_pipeline(rest)
    if name not in (*STAGES, "pipeline"):
        raise UserError(f"fcmae submit {name}: choose one of {names}")
    at = rest.index("--") if "--" in rest else len(rest)
    refuse_stage_options(name, rest[:at])
    submission = read_submission(name, rest[:at])
    words = rest[at + 1 :]
    if submission.sweep:
        return submit_sweep(name, words, submission)
    return submit_stage(name, words, submission)


def refuse_stage_options(name: str, words: list[str]) -> None:
    """Refuse options of the stage among those of the job.

    Raises:
        UserError: see above
    """
    if name not in STAGE_PARSERS:
        return
    options = set(STAGE_PARSERS[name]().get_defaults().keys())  # jsonargparse's keys can be walked once
    for word in words:
        option, _, _ = word.partition("=")
        if option.startswith("--") and option.removeprefix("--").replace("-", "_") in options:
            raise UserError(
                f"{option} is an option of the stage, and those go after --: "
                f"fcmae submit {name} [options of the job] -- {option} ..."
            )


def submit_stage(name: str, words: list[str], submission: Submission) -> int:
    """Queue one stage."""
    if submission.job.cluster == "debug":
        if submission.dry_run:
            raise UserError("--dry-run shows what would be queued, and --cluster debug queues nothing")
        from fcmae.launch.cli.main import main

        return main([name, *words])
    stage = freeze(name, words, submission, acquire=False)
    if submission.dry_run:
        run = RunFolder(stage.folder)
        print(batch_script(script_options(submission, run.jobs, run.code, f"fcmae-{name}"), run.jobs))
        return 0
    check_job(name, submission)
    refuse_second_job(stage.folder)
    stage = freeze(name, words, submission)
    [job_id] = queue([stage], submission, stage.folder, f"fcmae-{name}")
    print(f"queued job {job_id}; run folder: {stage.folder}\n  fcmae jobs {stage.folder}")
    return 0
