"""`fcmae finetune`: train on labels, from an encoder or from scratch."""

from fcmae.core.distributed import from_rank_zero, joined
from fcmae.core.recipes import LISTS_DIGEST, take_option
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.prepare import prepare
from fcmae.finetune.settings import read
from fcmae.launch.cli.report import announce, print_broken, print_stopped

SHOWN = ("top1", "ema_top1", "map", "ema_map", "mae", "ema_mae")  # metrics


def run(argv: list[str]) -> int:
    """Fine-tune; return the exit status. A job is told the lists of images that it was queued with."""
    lists_digest, argv = take_option(argv, LISTS_DIGEST)
    config = read(argv)
    with joined(config.device, config.loop.timeout_minutes, config.loop.start_minutes):
        return train(config, lists_digest)


def find_run(config: FinetuneConfig, acquire: bool) -> tuple[FinetuneConfig, RunFolder]:
    """Check all that can be wrong with a run, and return its settings, resolved, and its folder.

    Args:
        acquire: whether to make the folder the run's own; else nothing is written

    Raises:
        UserError: anything that would make the run fail later
    """
    return prepare(config, acquire=acquire)


def train(config: FinetuneConfig, lists_digest: str | None = None) -> int:
    """Fine-tune in the processes that have joined, of which rank zero talks; return the exit status."""
    config, run = from_rank_zero(lambda: prepare(config, lists_digest=lists_digest))
    from fcmae.finetune.task import finetune  # imports torch, after all that can be wrong

    origin = f"from {config.init}" if config.init else "from scratch"
    lists = [run.train_images, run.val_images]
    announce(f"fine-tuning {config.model} {origin}", config, lists, run)
    summary = finetune(config, run)
    if summary.interrupted is not None:
        return print_stopped(summary, run)
    epochs = [record for record in run.records() if "epoch_loss" in record]
    last = epochs[-1] if epochs else {}  # the log may be gone
    known = [(name, last.get(name)) for name in SHOWN]
    shown = [f"{name} {value:.2f}" for name, value in known if isinstance(value, int | float)]
    print(
        f"done: {summary.steps} steps in {summary.seconds:.0f} s\n"
        f"  run folder  {run.path}\n"
        f"  last epoch  {', '.join(shown)}\n"
        f"  look at     {run.curves}\n"
        f"  weights     {run.classifier} (of the best epoch)"
    )
    for broken, listed in zip((run.broken_images, run.broken_val_images), lists, strict=True):
        print_broken("  unreadable  ", broken, listed)
    return 0
