"""`fcmae evaluate`: measure a classifier on labelled images."""

from pathlib import Path
from typing import Any

from fcmae.core.distributed import joined
from fcmae.core.settings import Parser
from fcmae.finetune.checks import check_labelled, check_out, check_weights
from fcmae.launch.cli.parsers import DATA_HELP, TIMEOUT_MINUTES, add_image_size, check_numbers, weights_parser


def run(argv: list[str]) -> int:
    """Evaluate; return the exit status."""
    options = read(argv)
    with joined(options.device, TIMEOUT_MINUTES):
        return measure(options)


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = weights_parser("fcmae evaluate", "Measure a classifier: top-1, top-5, mean per class, loss.")
    parser.add_argument(
        "--data", type=list[str] | str | None, default=None, help=f"{DATA_HELP}; by default the run's own"
    )
    parser.add_argument(
        "--data_root",
        type=str | None,
        default=None,
        help="where a data set given by name lies; by default as in training",
    )
    parser.add_argument("--out", type=Path | None, default=None, help="folder for the confusion matrix")
    add_image_size(parser)
    return parser


def read(argv: list[str]) -> Any:
    """Return the options that a command line gives, checked without torch.

    Raises:
        UserError: an option that cannot be, or weights or data that cannot be measured
    """
    options = make_parser().read(argv)
    check_numbers(options)
    check_weights(options.weights, options.device)
    check_labelled(options.data, options.weights)
    if options.out is not None:
        check_out(options.out)
    return options


def measure(options: Any) -> int:
    """Evaluate in the processes that have joined, of which rank zero talks; return the exit status."""
    from fcmae.finetune.commands.evaluate import evaluate  # imports torch

    metrics = evaluate(**vars(options))
    if "top1" in metrics:
        line = (
            f"top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %, mean per class "
            f"{metrics['mean_class']:.2f} %, loss {metrics['val_loss']:.4f}"
        )
    elif "map" in metrics:
        line = f"mean average precision {metrics['map']:.2f} %, loss {metrics['val_loss']:.4f}"
    else:
        line = f"mean absolute error {metrics['mae']:.4g}, RMSE {metrics['rmse']:.4g}, R2 {metrics['r2']:.3f}"
    print(
        f"{line}\n{metrics['images']} images, {metrics['unreadable']} unreadable, "
        f"{metrics['images_per_s']:.0f} images/s"
    )
    if options.out is not None and "top1" in metrics:
        confusion = options.out / "confusion.png"
        if confusion.exists():
            print(f"look at {confusion} and {options.out / 'worst_classes.png'}")
        else:
            print(f"look at {options.out / 'worst_classes.png'}; so many classes get no confusion matrix")
    return 0
