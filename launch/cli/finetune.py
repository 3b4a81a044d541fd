"""`fcmae finetune`: train on labels, from an encoder or from scratch."""

from fcmae.core.distributed import from_rank_zero, joined
from fcmae.core.settings import Parser, settings_parser, to_settings
from fcmae.data.sources import find_opener
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.prepare import prepare
from fcmae.launch.cli.recipes import LISTS_DIGEST, option_value, recipe_names, take_option, with_recipe
from fcmae.launch.cli.report import announce, print_broken, print_stopped

NETWORK = ("model", "network.stem_stride", "network.depths", "network.dims")  # what says which network


def run(argv: list[str]) -> int:
    """Fine-tune; return the exit status. A job is told the lists of images that it was queued with."""
    lists_digest, argv = take_option(argv, LISTS_DIGEST)
    config = read(argv)
    with joined(config.device, config.loop.timeout_minutes, config.loop.start_minutes):
        return train(config, lists_digest)


def make_parser() -> Parser:
    """Return a parser with an option for each setting."""
    return settings_parser(
        FinetuneConfig,
        "fcmae finetune",
        "Train on labels, from --init or from scratch. Without --data: built-in digits. Without --config: "
        "the recipe 'digits' or, for other data, 'small_folder'. The same command again resumes the run.",
        recipe_names("fcmae.finetune"),
    )


def read(argv: list[str]) -> FinetuneConfig:
    """Return the settings that a command line gives.

    Raises:
        UserError: an unknown option, a value of the wrong type or a recipe that is not there
    """
    return to_settings(FinetuneConfig, make_parser().read(with_default_recipe(argv)))


def with_default_recipe(argv: list[str]) -> list[str]:
    """Return the command line with its recipe first, without what a default recipe says for other cases.

    Without --config, --model and --init say which network, whatever the recipe's is. Without --init, all
    layers learn at the full rate: there is nothing that lower ones are to keep.

    Raises:
        UserError: --config names neither a file nor a recipe
    """
    default = find_opener(option_value(argv, "--data") or FinetuneConfig.data).recipe or "small_folder"
    complete = with_recipe(argv, "fcmae.finetune", default)
    if option_value(argv, "--config"):
        return complete
    left_out: list[str] = []
    if option_value(argv, "--model") or option_value(argv, "--init"):
        left_out += [f"--{name}=null" for name in NETWORK]
    if not option_value(argv, "--init"):
        left_out.append("--layer_decay=1.0")
    return [*complete[:2], *left_out, *complete[2:]]  # before what is given, which wins


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
    shown = [f"{name} {epochs[-1][name]:.2f}" for name in ("top1", "ema_top1") if name in epochs[-1]]
    print(
        f"done: {summary.steps} steps in {summary.seconds:.0f} s\n"
        f"  run folder  {run.path}\n"
        f"  last epoch  {', '.join(shown)}\n"
        f"  look at     {run.curves}\n"
        f"  weights     {run.classifier} (of the epoch with the best {config.best})"
    )
    for broken, listed in zip((run.broken_images, run.broken_val_images), lists, strict=True):
        print_broken("  unreadable  ", broken, listed)
    return 0
