"""Parsers that several commands on trained weights share, and the checks of what they read."""

from pathlib import Path
from typing import Any

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.core.world import find_world
from fcmae.finetune.checks import check_images, check_out, check_weights

TIMEOUT_MINUTES = 10.0  # how long the processes of a measurement wait for each other
DATA_HELP = "folder of classes, or one with train/ and val/; tar, table; digits; cifar10, timm:NAME"
IMAGES_HELP = "folder of images, any tree; a list or table of files; may be given more than once"


def weights_parser(prog: str, description: str) -> Parser:
    """Return a parser with the options of every command that runs a trained network."""
    parser = Parser(prog, description)
    parser.add_argument("--weights", type=Path, required=True, help="run folder, file or name of weights")
    parser.add_argument("--batch_size", type=int, default=64, help="images at a time")
    parser.add_argument("--workers", type=int | None, default=None, help="processes that read images")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16", "fp16"], help="type")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def add_image_size(parser: Parser) -> None:
    """Add the option for another size of images than the training's."""
    parser.add_argument(
        "--image_size", type=int | None, default=None, help="side in pixels; by default the training's"
    )


def images_parser(prog: str, description: str, suffix: str) -> Parser:
    """Return a parser of a command that reads a folder of images and writes one file, of that suffix."""
    parser = weights_parser(prog, description)
    parser.add_argument("--images", type=list[str] | str, required=True, help=IMAGES_HELP)
    parser.add_argument("--out", type=Path, default=Path(f"results.{suffix}"), help="file to write")
    return parser


def read_images_options(parser: Parser, argv: list[str]) -> Any:
    """Return the options of a command that reads a folder of images, checked without torch.

    Raises:
        UserError: a number that cannot be, weights, images or a place to write that are not there, or several
            processes
    """
    options = parser.read(argv)
    processes = find_world().size
    if processes > 1:
        raise UserError(f"{parser.prog} runs in one process, not in {processes}, which would write one file")
    check_numbers(options)
    check_weights(options.weights, options.device)
    check_images(options.images)
    check_out(options.out)
    return options


def check_numbers(options: Any) -> None:
    """Refuse numbers of images, neighbours, classes, pixels or processes that cannot be.

    Raises:
        UserError: one of them is too small; the message names its option
    """
    for name, least in {
        "batch_size": 1,
        "neighbors": 1,
        "limit": 1,
        "topk": 1,
        "image_size": 1,
        "workers": 0,
    }.items():
        value = getattr(options, name, None)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}: it must be at least {least}")
