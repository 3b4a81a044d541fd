"""The settings of a pre-training from a command line: options, their recipe, what --init implies."""

import json
from pathlib import Path

from fcmae.core.recipes import option_value, recipe_names, with_recipe
from fcmae.core.settings import Parser, settings_parser, to_settings
from fcmae.data.sources import find_opener
from fcmae.models.card import read_card
from fcmae.pretraining.config import PretrainConfig


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
