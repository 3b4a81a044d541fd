"""The commands that pre-train and look: pretrain, reconstruct, info."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from fcmae.core.device import check_device
from fcmae.core.distributed import current_world, from_rank_zero, joined
from fcmae.core.errors import UserError
from fcmae.core.settings import Parser, settings_parser, to_settings
from fcmae.data.config import DIGITS, NUM_DIGITS
from fcmae.engine.preflight import check_counts
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.recipes import option_value, recipe_names, with_recipe
from fcmae.pretraining.config import PretrainConfig

if TYPE_CHECKING:
    from fcmae.engine.progress import Summary


def pretrain(argv: list[str]) -> int:
    """Train an encoder without labels."""
    config = read_pretraining(argv)
    with joined(config.device, config.loop.timeout_minutes):
        return run_pretraining(config)


def read_pretraining(argv: list[str]) -> PretrainConfig:
    """The settings of a pre-training from its command line."""
    parser = settings_parser(
        PretrainConfig,
        "fcmae pretrain",
        "Pre-train a ConvNeXt by masked autoencoding. Without --data: built-in digits. Without --config: the "
        "recipe 'digits' or, for a folder of images, 'folder'. The same command again resumes the run.",
        recipe_names("fcmae.pretraining"),
    )
    default = "digits" if option_value(argv, "--data") in (None, "digits") else "folder"
    return to_settings(PretrainConfig, parser.read(with_recipe(argv, "fcmae.pretraining", default)))


def run_pretraining(config: PretrainConfig) -> int:
    """Pre-train in the processes that have joined; rank zero talks."""
    from fcmae.pretraining.prepare import prepare  # checks what can be wrong, before torch is imported

    run = from_rank_zero(lambda: prepare(config))
    from fcmae.pretraining.task import pretrain as start

    announce(f"pre-training {config.model}", config, [run.images], run)
    summary = start(config, run)
    if summary.interrupted is not None:
        return stopped(summary, run)
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


def announce(task: str, config: Any, lists: list[Path], run: RunFolder) -> None:
    """Print what a run trains, on how many images of what size, on which device, and where it keeps all.

    Args:
        task: what is done with which model
        config: the settings of a training
        lists: files of the run's lists of images, where they come from a folder
        run: the folder

    Raises:
        UserError: a list that is damaged, or a device that is not there
    """
    from fcmae.core.device import pick_device
    from fcmae.data.index import ImageIndex

    counts = [str(len(ImageIndex.load(path))) for path in lists if path.exists()]
    if config.data == DIGITS:
        counts = [str(NUM_DIGITS)]
    images = f"{' + '.join(counts)} images of {config.data}" if counts else config.data
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    device, processes = pick_device(config.device), current_world().size
    where = f"{processes} x {device}" if processes > 1 else device
    print(f"{task} on {images}, {height} x {width}, {where}; run folder: {run.path}")


def print_broken(heading: str, listed: Path, images: Path) -> None:
    """Print a line of a run's report on images that could not be read, if there were any."""
    from fcmae.data.broken import count_broken

    counted = count_broken(listed, images)
    if counted:
        print(heading + counted)


def stopped(summary: "Summary", run: RunFolder) -> int:
    """Say that a signal stopped a run, and how it goes on; the exit status."""
    print(f"stopped after step {summary.steps}, saved; the same command goes on with {run.path}")
    return 128 + (summary.interrupted or 0)


def reconstruct(argv: list[str]) -> int:
    """Draw originals, masked images and reconstructions of a folder's images."""
    parser = Parser(
        "fcmae reconstruct",
        "Draw what a pre-training run makes of hidden patches. With norm_pix_loss, the default, the picture "
        "gives each hidden patch its own true mean and deviation, which the network does not predict.",
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--out", type=Path, default=Path("reconstruction.png"), help="picture to write (PNG)")
    parser.add_argument("--count", type=int, default=8, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    options = parser.read(argv)
    check_counts({"--count": options.count})
    check_device(options.device)
    config = RunFolder(options.run).config
    if not config.is_file():
        raise UserError(f"{options.run} is not the folder of a run (no {config.name})")
    if not options.images.is_dir():
        raise UserError(f"--images {options.images}: no such folder")
    from fcmae.pretraining.reconstruct import reconstruct as draw

    draw(
        options.run,
        options.images,
        options.out,
        count=options.count,
        seed=options.seed,
        device=options.device,
    )
    print(f"look at {options.out}")
    return 0


def info(argv: list[str]) -> int:
    """Print the table of sizes."""
    parser = Parser("fcmae info", "List the sizes and what each costs for one image.")
    parser.add_argument("--image_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--mask_ratio", type=float, default=0.6, help="share of hidden patches")
    parser.add_argument("--stem_stride", type=Literal[4, 2, 1], default=4, help="pixels")
    options = parser.read(argv)
    with Console(stderr=True).status("Counting what each size costs, on networks without data"):
        from fcmae.launch.cli.info import table_of_sizes

        table = table_of_sizes(options.image_size, options.mask_ratio, options.stem_stride)
    Console(width=None if Console().is_terminal else 120).print(table)
    return 0
