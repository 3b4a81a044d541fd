"""`fcmae pretrain`: train an encoder on images without labels."""

import json
from pathlib import Path

from fcmae.core.distributed import from_rank_zero, joined
from fcmae.core.settings import Parser, settings_parser, to_settings
from fcmae.data.sources import find_opener
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.recipes import LISTS_DIGEST, option_value, recipe_names, take_option, with_recipe
from fcmae.launch.cli.report import announce, print_broken, print_stopped
from fcmae.models.card import read_card
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.prepare import prepare


def run(argv: list[str]) -> int:
    """Pre-train; return the exit status. A job is told the lists of images that it was queued with."""
    lists_digest, argv = take_option(argv, LISTS_DIGEST)
    config = read(argv)
    with joined(config.device, config.loop.timeout_minutes, config.loop.start_minutes):
        return train(config, lists_digest)


def make_parser() -> Parser:
    """Return a parser with an option for each setting."""
    return settings_parser(
        PretrainConfig,
        "fcmae pretrain",
        "Pre-train a ConvNeXt by masked autoencoding. Without --data: built-in digits. Without --config: the "
        "recipe 'digits', for a folder of images 'folder', with --init 'continue'. The same command again "
        "resumes the run.",
        recipe_names("fcmae.pretraining"),
    )


def read(argv: list[str]) -> PretrainConfig:
    """Return the settings that a command line gives.

    Raises:
        UserError: an unknown option, a value of the wrong type or a recipe that is not there
    """
    init = option_value(argv, "--init")
    of_data = find_opener(option_value(argv, "--data") or PretrainConfig.data).recipe or "folder"
    config, path, *options = with_recipe(argv, "fcmae.pretraining", "continue" if init else of_data)
    if init:  # behind the recipe and before what is typed, which wins over both
        options = [*options_of(init, option_value(argv, "--network.in-chans")), *options]
    return to_settings(PretrainConfig, make_parser().read([config, path, *options]))


def options_of(init: str, in_chans: str | None) -> list[str]:
    """Return the options that weights to start from imply: their architecture and how their images were read.

    Args:
        init: what --init says
        in_chans: what --network.in-chans says; statistics of other channels are left out

    Raises:
        UserError: no such weights
    """
    path = Path(init).expanduser()
    card = read_card(path)
    if card is None:
        from fcmae.models.weights import load_weights  # imports torch

        card = load_weights(path).card
    options = [f"--model={card.model}"]
    options += [f"--network.{name}={json.dumps(value)}" for name, value in card.options.items()]
    if in_chans in (None, str(card.in_chans)):
        known = {name: getattr(card, name) for name in ("mean", "std", "value_range")}
        options += [f"--images.{name}={list(value)}" for name, value in known.items() if value is not None]
    return options


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
