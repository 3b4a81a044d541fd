"""`fcmae reconstruct`: draw originals, masked images and reconstructions of a folder's images."""

from pathlib import Path

from fcmae.core.device import check_device
from fcmae.core.errors import UserError
from fcmae.core.settings import Parser, check_counts
from fcmae.data.sources import find_opener
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.parsers import IMAGES_HELP


def run(argv: list[str]) -> int:
    """Draw the picture; return the exit status.

    Raises:
        UserError: a run, folder or device that is not there, or no image to draw
    """
    options = make_parser().read(argv)
    check_counts({"--count": options.count})
    check_device(options.device)
    config = RunFolder(options.run).config
    if not config.is_file():
        raise UserError(f"{options.run} is not the folder of a run (no {config.name})")
    find_opener(options.images).check()
    from fcmae.pretraining.reconstruct import reconstruct  # imports torch

    reconstruct(
        options.run,
        options.images,
        options.out,
        count=options.count,
        seed=options.seed,
        device=options.device,
    )
    print(f"look at {options.out}")
    return 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser(
        "fcmae reconstruct",
        "Draw what a pre-training run makes of hidden patches. With norm_pix_loss, the default, the picture "
        "gives each hidden patch its own mean and standard deviation, which the network does not predict.",
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--images", type=list[str] | str, required=True, help=IMAGES_HELP)
    parser.add_argument("--out", type=Path, default=Path("reconstruction.png"), help="picture to write (PNG)")
    parser.add_argument("--count", type=int, default=8, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser
