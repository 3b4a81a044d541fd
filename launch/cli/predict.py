"""`fcmae predict`: classify a folder of images."""

from typing import Any

from fcmae.core.settings import Parser
from fcmae.launch.cli.parsers import images_parser, read_images_options
from fcmae.launch.cli.report import print_table


def run(argv: list[str]) -> int:
    """Classify the images; return the exit status."""
    options = read(argv)
    from fcmae.finetune.commands.predict import predict  # imports torch

    return print_table(*predict(**vars(options)), options.out)


def read(argv: list[str]) -> Any:
    """Return the options that a command line gives, checked without torch.

    Raises:
        UserError: an option that cannot be, or weights, images or a place to write that are not there
    """
    return read_images_options(make_parser(), argv)


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    description = "Classify images: a table of file, classes, probabilities."
    parser = images_parser("fcmae predict", description, "csv")
    parser.add_argument("--topk", type=int, default=5, help="classes of an image")
    return parser
