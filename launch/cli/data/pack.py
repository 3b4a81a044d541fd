"""`fcmae data pack`: write any images to shards of tar."""

from pathlib import Path
from typing import Any

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.data.pixels import check_pixels
from fcmae.launch.cli.data.reading import check_reading, count_workers, open_source, source_parser

MB = 1_000_000


def run(argv: list[str]) -> int:
    """Pack the images; return the exit status.

    Raises:
        UserError: an option that cannot be, no images, or a folder that holds something else
    """
    options = make_parser().read(argv)
    check(options)
    check_reading(options)
    from fcmae.data.tools.encode import Encoder  # imports torch
    from fcmae.data.tools.pack import BROKEN_FILE, pack

    pieces = open_source(options)
    if pieces.unlabelled:
        print(f"packing without labels: {pieces.unlabelled}")
    for piece in pieces.pieces:
        if piece.index is not None and options.short_side is not None:  # which leaves 8 bits of a value
            check_pixels(piece.index, options.channels, options.value_range)
    encoder = Encoder(options.short_side, options.quality, options.format)
    workers, full = count_workers(options), int(options.shard_size * MB)
    shards = pack(pieces, options.out, encoder, full, workers, f"Packing {options.source}")
    images, size = sum(shard.images for shard in shards), sum(shard.bytes for shard in shards)
    broken = sum(len(shard.broken) for shard in shards)
    print(f"packed {images} images of {options.source} into {len(shards)} shards, {size / MB:,.3g} MB")
    if broken:
        print(f"{broken} broken images were left out; they are listed in {options.out / BROKEN_FILE}")
    print(f"give it as it is: --data {options.out}")
    return 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = source_parser(
        "fcmae data pack",
        "SOURCE OUT",
        "Write images to shards of tar. Killed at any time, the same command goes on.",
    )
    parser.add_argument("out", type=Path, help="folder to write, a new one")
    parser.add_argument(
        "--short_side",
        type=int | None,
        default=None,
        help="pixels that the short side of larger images is resized to; by default files stay as they are",
    )
    parser.add_argument("--quality", type=int, default=90, help="of JPEG, 1 to 100")
    parser.add_argument(
        "--format", default="jpeg", choices=["jpeg", "png"], help="of images that are resized"
    )
    parser.add_argument("--shard_size", type=float, default=500.0, help="MB after which a shard is full")
    return parser


def check(options: Any) -> None:
    """Refuse options that cannot be, and shards in the folder that they are made of.

    Raises:
        UserError: names the option and its value
    """
    if options.short_side is not None and options.short_side < 1:
        raise UserError(f"--short-side is {options.short_side}: give pixels, 256 for example")
    if not 1 <= options.quality <= 100:
        raise UserError(f"--quality is {options.quality}: choose 1 to 100")
    if options.shard_size <= 0:
        raise UserError(f"--shard-size is {options.shard_size:g}: give megabytes, 500 for example")
    source, out = Path(options.source).expanduser().resolve(), options.out.expanduser().resolve()
    if source.is_dir() and (source == out or source in out.parents):
        raise UserError(
            f"{out} lies in {source}: choose a folder outside, or its shards would be images of it"
        )
