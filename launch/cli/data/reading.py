"""What the commands of `fcmae data` share: their options of how images are read, and how these are opened."""

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.data.config import DATA_ROOT
from fcmae.data.sources import SourceOptions, find_opener

if TYPE_CHECKING:
    from fcmae.data.tools.pieces import Pieces

SIZE = 224  # pixels of images that are made to size, as the digits


def source_parser(prog: str, arguments: str, description: str) -> Parser:
    """Return a parser of a command that reads all images of a source.

    Args:
        prog: the command, as it is typed
        arguments: what follows it, for its help
        description: what it does, for its help
    """
    parser = Parser(prog, description)
    parser.usage = f"{prog} {arguments} [options]"
    parser.add_argument("source", type=str, help="whatever --data takes: a folder, archives, a table, digits")
    parser.add_argument("--channels", type=int, default=3, help="of the images, as training reads them")
    parser.add_argument(
        "--value_range",
        type=tuple[float, float] | None,
        default=None,
        help="values of 16-bit and float images that become black and white",
    )
    parser.add_argument("--data_root", type=str, default=DATA_ROOT, help="where data sets known by name lie")
    parser.add_argument(
        "--workers", type=int | None, default=None, help="processes that read; by default one a core"
    )
    return parser


def check_reading(options: Any) -> None:
    """Refuse numbers that cannot be, and a source without images, before torch is imported.

    Raises:
        UserError: names the option or the source
    """
    for name, least in {"channels": 1, "workers": 0}.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}: it must be at least {least}")
    find_opener(options.source).check()
    print(f"looking at {options.source}", file=sys.stderr, flush=True)


def open_source(options: Any) -> "Pieces":
    """Open all images.

    Raises:
        UserError: they cannot be read
    """
    from fcmae.data.tools.pieces import open_pieces  # imports torch

    reading = SourceOptions(options.channels, SIZE, options.value_range, options.data_root)
    return open_pieces(options.source, replace(reading, no_data=getattr(options, "no_data", None)))


def count_workers(options: Any) -> int:
    """Return how many processes read images: as many as wanted, or one for each core that may be used."""
    if options.workers is not None:
        return int(options.workers)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
