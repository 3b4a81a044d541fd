"""`fcmae data verify`: decode all images, check packed shards, list what is broken."""

from pathlib import Path

from fcmae.core.settings import Parser
from fcmae.launch.cli.data.reading import check_reading, count_workers, open_source, source_parser

SHOWN = 20


def run(argv: list[str]) -> int:
    """Verify the images; return the exit status, 1 where something is broken.

    Raises:
        UserError: an option that cannot be, or no images
    """
    options = make_parser().read(argv)
    check_reading(options)
    from fcmae.data.tools.verify import verify_images, verify_shards  # imports torch

    faults = verify_shards(Path(options.source).expanduser())
    pieces = open_source(options)
    faults += verify_images(pieces, count_workers(options), f"Verifying {options.source}")
    for name, reason in faults[: None if options.all else SHOWN]:
        print(f"{name}: {reason}")
    if len(faults) > SHOWN and not options.all:
        print(f"... and {len(faults) - SHOWN} more; --all lists them")
    images = sum(len(piece.source) for piece in pieces.pieces)
    print(f"{images} images, {len(faults)} faults")
    return 1 if faults else 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = source_parser(
        "fcmae data verify", "SOURCE", "Decode all images, and check shards that were packed."
    )
    parser.add_argument("--all", action="store_true", help=f"list all that is broken, not {SHOWN}")
    return parser
