"""The table of sizes that `fcmae info` prints."""

from rich.table import Table

from fcmae.core.errors import UserError
from fcmae.models.complexity import Complexity, measure_complexity
from fcmae.models.geometry import count_visible, patch_grid
from fcmae.models.sizes import SIZES

HEADINGS = ("depths", "dims", "parameters M", "MACs G", "activations M", "tiles MACs G", "tiles act. M")


def table_of_sizes(image_size: int, mask_ratio: float, stem_stride: int) -> Table:
    """Parameters (with a 1000-way head), multiply-adds and activations, dense and on visible tiles.

    Raises:
        UserError: a size or ratio that cannot be
    """
    try:
        rows, cols = patch_grid(image_size, 8 * stem_stride)
        visible = count_visible(rows * cols, mask_ratio)
    except ValueError as error:
        raise UserError(str(error)) from error
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


def costs(of: Complexity) -> tuple[str, str]:
    """Multiply-adds in billions and activations in millions, as text."""
    return f"{of.macs / 1e9:.2f}", f"{of.activations / 1e6:.1f}"
