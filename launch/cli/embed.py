"""`fcmae embed`: write the features of a folder of images."""

from typing import Any

from fcmae.core.settings import Parser
from fcmae.finetune.checks import check_features_file
from fcmae.launch.cli.parsers import images_parser, read_images_options
from fcmae.launch.cli.report import print_table


def run(argv: list[str]) -> int:
    """Write the features; return the exit status."""
    options = read(argv)
    from fcmae.finetune.commands.embed import embed  # imports torch

    return print_table(*embed(**vars(options)), options.out)


def read(argv: list[str]) -> Any:
    """Return the options that a command line gives, checked without torch.

    Raises:
        UserError: an option that cannot be, or weights, images or a place to write that are not there
    """
    options = read_images_options(make_parser(), argv)
    check_features_file(options.out)
    return options


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    return images_parser("fcmae embed", "Features of images: a table of files and features.", "npz")
