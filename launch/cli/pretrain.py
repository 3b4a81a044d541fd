"""`fcmae pretrain`: train an encoder on images without labels."""

from fcmae.core.distributed import from_rank_zero, joined
from fcmae.core.recipes import LISTS_DIGEST, take_option
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.report import announce, print_broken, print_stopped
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.prepare import prepare
from fcmae.pretraining.settings import read


def run(argv: list[str]) -> int:
    """Pre-train; return the exit status. A job is told the lists of images that it was queued with."""
    lists_digest, argv = take_option(argv, LISTS_DIGEST)
    config = read(argv)
    with joined(config.device, config.loop.timeout_minutes, config.loop.start_minutes):
        return train(config, lists_digest)


def find_run(config: PretrainConfig, acquire: bool) -> tuple[PretrainConfig, RunFolder]:
    """Check all that can be wrong with a run, and return its settings, resolved, and its folder.

    Args:
        acquire: whether to make the folder the run's own; else nothing is written

    Raises:
        UserError: anything that would make the run fail later
    """
    return config, prepare(config, acquire=acquire)


def train(config: PretrainConfig, lists_digest: str | None = None) -> int:
    """Pre-train in the processes that have joined, of which rank zero talks; return the exit status."""
    run = from_rank_zero(lambda: prepare(config, lists_digest=lists_digest))
    from fcmae.pretraining.task import pretrain  # imports torch, after all that can be wrong

    announce(f"pre-training {config.model}", config, [run.images], run)
    summary = pretrain(config, run)
    if summary.interrupted is not None:
        return print_stopped(summary, run)
    print(
        f"done: {summary.steps} steps in {summary.seconds:.0f} s\n"
        f"  run folder       {run.path}\n"
        f"  loss             {summary.first_loss:.3f} at first, {summary.last_loss:.3f} in the last epoch\n"
        f"  look at          {run.reconstructions}\n"
        f"                   {run.curves}\n"
        f"  encoder weights  {run.encoder}"
    )
    print_broken("  unreadable       ", run.broken_images, run.images)
    return 0
