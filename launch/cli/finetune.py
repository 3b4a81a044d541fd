"""The commands that use an encoder: fine-tune, evaluate, probe, predict, embed, export."""

from pathlib import Path
from typing import Any

from fcmae.core.distributed import from_rank_zero, joined
from fcmae.core.errors import UserError
from fcmae.core.settings import Parser, settings_parser, to_settings
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.inputs import (
    ExportFormat,
    check_export,
    check_features_file,
    check_images,
    check_labelled,
    check_out,
    check_weights,
)
from fcmae.launch.cli.pretrain import announce, print_broken, stopped
from fcmae.launch.cli.recipes import option_value, recipe_names, with_recipe

TIMEOUT_MINUTES = 10.0  # how long the processes of a measurement wait for each other
DATA_HELP = "folder of classes, or one with train/ and val/; digits; cifar10, cifar100 or timm:NAME"


def finetune(argv: list[str]) -> int:
    """Train a classifier on labels."""
    config = read_finetuning(argv)
    with joined(config.device, config.loop.timeout_minutes):
        return run_finetuning(config)


def read_finetuning(argv: list[str]) -> FinetuneConfig:
    """The settings of a fine-tuning from its command line."""
    parser = settings_parser(
        FinetuneConfig,
        "fcmae finetune",
        "Train on labels, from --init or from scratch. Without --data: built-in digits. Without --config: "
        "the recipe 'digits' or, for other data, 'small_folder'. The same command again resumes the run.",
        recipe_names("fcmae.finetune"),
    )
    return to_settings(FinetuneConfig, parser.read(with_default_recipe(argv)))


def with_default_recipe(argv: list[str]) -> list[str]:
    """The command line with its recipe first, and without what a default recipe says for other cases.

    Without --config, --model and --init say which network, whatever the recipe's is. Without --init, all
    layers learn at the full rate: there is nothing that lower ones are to keep.

    Raises:
        UserError: see `with_recipe`
    """
    default = "digits" if option_value(argv, "--data") in (None, "digits") else "small_folder"
    words = with_recipe(argv, "fcmae.finetune", default)
    if option_value(argv, "--config"):
        return words
    left_out: list[str] = []
    if option_value(argv, "--model") or option_value(argv, "--init"):
        left_out += [
            f"--{name}=null" for name in ("model", "network.stem_stride", "network.depths", "network.dims")
        ]
    if not option_value(argv, "--init"):
        left_out.append("--layer_decay=1.0")
    return [*words[:2], *left_out, *words[2:]]  # before what is given, which wins


def run_finetuning(config: FinetuneConfig) -> int:
    """Fine-tune in the processes that have joined; rank zero talks."""
    from fcmae.finetune.prepare import prepare

    config, run = from_rank_zero(lambda: prepare(config))
    from fcmae.finetune.task import finetune as start

    origin = f"from {config.init}" if config.init else "from scratch"
    lists = [run.train_images, run.val_images]
    announce(f"fine-tuning {config.model} {origin}", config, lists, run)
    summary = start(config, run)
    if summary.interrupted is not None:
        return stopped(summary, run)
    figures = [record for record in run.records() if "epoch_loss" in record]
    shown = [f"{name} {figures[-1][name]:.2f}" for name in ("top1", "ema_top1") if name in figures[-1]]
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


def evaluation_parser() -> Parser:
    """The parser of an evaluation's options."""
    parser = weights_parser("fcmae evaluate", "Measure a classifier: top-1, top-5, mean per class, loss.")
    parser.add_argument("--data", type=str | None, default=None, help=f"{DATA_HELP}; none is the run's own")
    parser.add_argument(
        "--data_root",
        type=str | None,
        default=None,
        help="where a data set given by name lies; none is as in training",
    )
    parser.add_argument("--out", type=Path | None, default=None, help="folder for the confusion matrix")
    parser.add_argument("--image_size", type=int | None, default=None, help="side; none is the training's")
    return parser


def read_evaluation(argv: list[str]) -> Any:
    """The options of an evaluation, checked before torch is imported."""
    options = evaluation_parser().read(argv)
    check_numbers(options)
    check_weights(options.weights, options.device)
    check_labelled(options.data, options.weights)
    if options.out is not None:
        check_out(options.out)
    return options


def evaluate(argv: list[str]) -> int:
    """Measure a trained classifier."""
    options = read_evaluation(argv)
    with joined(options.device, TIMEOUT_MINUTES):
        return run_evaluation(options)


def run_evaluation(options: Any) -> int:
    """Evaluate in the processes that have joined; rank zero talks."""
    from fcmae.finetune.evaluate import evaluate as start

    figures = start(**vars(options))
    print(
        f"top-1 {figures['top1']:.2f} %, top-5 {figures['top5']:.2f} %, mean per class "
        f"{figures['mean_class']:.2f} %, loss {figures['val_loss']:.4f}\n"
        f"{figures['images']} images, {figures['unreadable']} unreadable, "
        f"{figures['images_per_s']:.0f} images/s"
    )
    if options.out is not None:
        confusion = options.out / "confusion.png"
        if confusion.exists():
            print(f"look at {confusion} and {options.out / 'worst_classes.png'}")
        else:
            print(f"look at {options.out / 'worst_classes.png'}; so many classes get no confusion matrix")
    return 0


def probing_parser() -> Parser:
    """The parser of a probe's options."""
    parser = weights_parser("fcmae probe", "Measure frozen features: k-NN, a linear classifier, collapse.")
    parser.add_argument("--data", default="digits", help=DATA_HELP)
    parser.add_argument("--data_root", default="data", help="where a data set given by name lies")
    parser.add_argument(
        "--val_fraction", type=float, default=0.2, help="share of a single tree to measure on"
    )
    parser.add_argument("--limit", type=int | None, default=None, help="most training images to use")
    parser.add_argument("--neighbors", type=int, default=20, help="of k-NN")
    parser.add_argument("--image_size", type=int | None, default=None, help="side; none is the training's")
    parser.add_argument(
        "--collapse", type=Path | None, default=None, help="PNG: distance of channels by block"
    )
    return parser


def read_probing(argv: list[str]) -> Any:
    """The options of a probe, checked before torch is imported."""
    options = probing_parser().read(argv)
    check_numbers(options)
    if not 0 < options.val_fraction < 1:
        raise UserError(f"--val-fraction is {options.val_fraction:g}: it is a share between 0 and 1")
    check_weights(options.weights, options.device)
    if options.collapse is not None:
        check_out(options.collapse)
    return options


def probe(argv: list[str]) -> int:
    """Measure frozen features."""
    options = read_probing(argv)
    with joined(options.device, TIMEOUT_MINUTES):
        return run_probing(options)


def run_probing(options: Any) -> int:
    """Probe in the processes that have joined; rank zero talks."""
    from fcmae.finetune.probe import probe as start

    figures = start(**vars(options))
    print(
        f"k-NN {figures['knn']:.2f} %, linear {figures['linear']:.2f} % "
        f"({figures['train_images']} training and {figures['val_images']} validation images)"
    )
    if options.collapse is not None:
        drawn = f"look at {options.collapse}"
        print(drawn if "collapse" in figures else "no collapse is drawn: it is measured in our networks only")
    return 0


def predict(argv: list[str]) -> int:
    """Classify a folder of images."""
    parser = images_parser(
        "fcmae predict", "Classify images: a table of file, classes, probabilities.", "csv"
    )
    parser.add_argument("--topk", type=int, default=5, help="classes of an image")
    options = read_images_options(parser, argv)
    from fcmae.finetune.predict import predict as start

    return report(*start(**vars(options)), options.out)


def embed(argv: list[str]) -> int:
    """Write the features of a folder of images."""
    parser = images_parser("fcmae embed", "Features of images: a table of files and features.", "npz")
    options = read_images_options(parser, argv)
    check_features_file(options.out)
    from fcmae.finetune.predict import embed as start

    return report(*start(**vars(options)), options.out)


def export(argv: list[str]) -> int:
    """Convert trained weights for other tools."""
    parser = Parser("fcmae export", "Convert weights for other tools, and check that the outputs agree.")
    parser.add_argument("--weights", type=Path, required=True, help="run folder or file of weights")
    parser.add_argument("--format", type=ExportFormat, default="onnx", help="form to write")
    parser.add_argument("--out", type=Path, required=True, help="file or folder to write")
    parser.add_argument("--image_size", type=int | None, default=None, help="side; none is the training's")
    options = parser.read(argv)
    check_numbers(options)
    check_weights(options.weights, "cpu")
    check_export(options.format, options.out)
    from fcmae.finetune.export import export as start

    size = None if options.image_size is None else (options.image_size, options.image_size)
    exported = start(options.weights, options.format, options.out, size)
    print(f"wrote {exported.path}; its outputs differ from ours by {exported.difference:.1e} at most")
    return 0


def check_numbers(options: Any) -> None:
    """Refuse numbers of images, neighbours, classes, pixels or processes that cannot be.

    Raises:
        UserError: see above
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


def weights_parser(prog: str, description: str) -> Parser:
    """A parser with the options of every command that runs a trained network."""
    parser = Parser(prog, description)
    parser.add_argument("--weights", type=Path, required=True, help="run folder or file of weights")
    parser.add_argument("--batch_size", type=int, default=64, help="images at a time")
    parser.add_argument("--workers", type=int | None, default=None, help="processes that read images")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16", "fp16"], help="type")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def images_parser(prog: str, description: str, suffix: str) -> Parser:
    """A parser of a command that reads a folder of images and writes one file."""
    parser = weights_parser(prog, description)
    parser.add_argument("--images", type=Path, required=True, help="folder of images, any tree")
    parser.add_argument("--out", type=Path, default=Path(f"results.{suffix}"), help="file to write")
    return parser


def read_images_options(parser: Parser, argv: list[str]) -> Any:
    """Options of predict and embed, checked before torch is imported.

    Raises:
        UserError: weights, images or a place to write that are not there
    """
    options = parser.read(argv)
    check_numbers(options)
    check_weights(options.weights, options.device)
    check_images(options.images)
    check_out(options.out)
    return options


def report(images: int, broken: int, out: Path) -> int:
    """Say what was written."""
    listed = f"; {broken} broken files are listed in {out}.broken.txt" if broken else ""
    print(f"wrote {out}: {images} images{listed}")
    return 0
