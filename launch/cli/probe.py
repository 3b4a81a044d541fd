"""`fcmae probe`: measure the features of an encoder without training it."""

from pathlib import Path
from typing import Any

from fcmae.core.distributed import joined
from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.finetune.checks import check_out, check_weights
from fcmae.launch.cli.parsers import DATA_HELP, TIMEOUT_MINUTES, add_image_size, check_numbers, weights_parser


def run(argv: list[str]) -> int:
    """Probe; return the exit status."""
    options = read(argv)
    with joined(options.device, TIMEOUT_MINUTES):
        return measure(options)


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = weights_parser("fcmae probe", "Measure frozen features: k-NN, a linear classifier, collapse.")
    parser.add_argument("--data", type=list[str] | str, default="digits", help=DATA_HELP)
    parser.add_argument("--data_root", default="data", help="where a data set given by name lies")
    parser.add_argument(
        "--val_fraction", type=float, default=0.2, help="fraction of a single tree to measure on"
    )
    parser.add_argument("--limit", type=int | None, default=None, help="most training images to use")
    parser.add_argument("--neighbors", type=int, default=20, help="of k-NN")
    add_image_size(parser)
    parser.add_argument(
        "--collapse", type=Path | None, default=None, help="PNG: distance of channels by block"
    )
    return parser


def read(argv: list[str]) -> Any:
    """Return the options that a command line gives, checked without torch.

    Raises:
        UserError: an option that cannot be, or weights that are not there
    """
    options = make_parser().read(argv)
    check_numbers(options)
    if not 0 < options.val_fraction < 1:
        raise UserError(f"--val-fraction is {options.val_fraction:g}: it is a fraction between 0 and 1")
    check_weights(options.weights, options.device)
    if options.collapse is not None:
        check_out(options.collapse)
    return options


def measure(options: Any) -> int:
    """Probe in the processes that have joined, of which rank zero talks; return the exit status."""
    from fcmae.finetune.commands.probe import probe  # imports torch

    metrics = probe(**vars(options))
    print(
        f"k-NN {metrics['knn']:.2f} %, linear {metrics['linear']:.2f} % "
        f"({metrics['train_images']} training and {metrics['val_images']} validation images)"
    )
    if options.collapse is not None:
        drawn = f"look at {options.collapse}"
        print(drawn if "collapse" in metrics else "no collapse is drawn: it is measured in our networks only")
    return 0
