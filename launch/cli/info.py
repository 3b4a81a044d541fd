"""`fcmae info`: the table of sizes, and what each costs for one image."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fcmae.core.settings import Parser
from fcmae.models.geometry import count_visible, patch_grid, total_stride
from fcmae.models.sizes import SIZES

if TYPE_CHECKING:
    from fcmae.models.complexity import Complexity

HEADINGS = ("depths", "dims", "parameters M", "MACs G", "activations M", "tiles MACs G", "tiles act. M")


def run(argv: list[str]) -> int:
    """Print the table; return the exit status."""
    options = make_parser().read(argv)
    with Console(stderr=True).status("Counting what each size costs, on networks without data"):
        table = table_of_sizes(options.image_size, options.mask_ratio, options.stem_stride)
    Console(width=None if Console().is_terminal else 120).print(table)
    return 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser("fcmae info", "List the sizes and what each costs for one image.")
    parser.add_argument("--image_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--mask_ratio", type=float, default=0.6, help="fraction of hidden patches")
    parser.add_argument("--stem_stride", type=int, default=4, help="pixels: 4, 2 or 1")
    return parser


def table_of_sizes(image_size: int, mask_ratio: float, stem_stride: int) -> Table:
    """Return parameters (with a 1000-way head), multiply-adds and activations, dense and on visible tiles.

    Args:
        image_size: side in pixels
        mask_ratio: fraction of patches that tiles do not compute
        stem_stride: pixels

    Raises:
        UserError: a size or ratio that cannot be
    """
    rows, cols = patch_grid(image_size, total_stride(stem_stride))
    visible = count_visible(rows * cols, mask_ratio)
    from fcmae.models.complexity import measure_complexity  # imports torch

    title = f"One image of {image_size} x {image_size}; tiles: {visible} of {rows * cols} patches visible"
    table = Table(title=title, title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for name, size in SIZES.items():
        dense = measure_complexity(name, (image_size, image_size), stem_stride=stem_stride)
        tiles = measure_complexity(name, (image_size, image_size), visible, stem_stride=stem_stride)
        shape = [" ".join(map(str, numbers)) for numbers in (size.depths, size.dims)]
        parameters = f"{dense.parameters / 1e6:.1f}"
        table.add_row(name, *shape, parameters, *costs(dense), *costs(tiles))
    return table


def costs(of: "Complexity") -> tuple[str, str]:
    """Return multiply-adds in billions and activations in millions, as text."""
    return f"{of.macs / 1e9:.2f}", f"{of.activations / 1e6:.1f}"
