"""The settings of a fine-tuning from a command line: its options, and the recipe behind them."""

from fcmae.core.recipes import option_value, recipe_names, with_recipe
from fcmae.core.settings import Parser, settings_parser, to_settings
from fcmae.data.sources import find_opener
from fcmae.finetune.config import FinetuneConfig

NETWORK = ("model", "network.stem_stride", "network.depths", "network.dims")  # what says which network


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
