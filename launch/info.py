"""The table of sizes that `fcmae info` prints."""

from rich.console import Console
from rich.table import Table

from fcmae.engine.errors import UserError
from fcmae.geometry import count_visible, patch_grid
from models.complexity import measure_complexity
from models.sizes import SIZES


def print_sizes(image_size: int, mask_ratio: float, stem_stride: int) -> None:
    """Print parameters (with a 1000-way head), multiply-adds and activations, dense and on visible tiles.

    Raises:
        UserError: a size or ratio that cannot be
    """
    try:
        rows, cols = patch_grid(image_size, 8 * stem_stride)
        visible = count_visible(rows * cols, mask_ratio)
    except ValueError as error:
        raise UserError(str(error)) from error
    table = Table(
        title=f"One image of {image_size} x {image_size}; tiles: {visible} of {rows * cols} patches visible",
        title_justify="left",
    )
    table.add_column("model", no_wrap=True)
    for heading in (
        "depths",
        "dims",
        "parameters M",
        "MACs G",
        "activations M",
        "tiles MACs G",
        "tiles act. M",
    ):
        table.add_column(heading, justify="right")
    for name, size in SIZES.items():
        dense = measure_complexity(name, (image_size, image_size), stem_stride=stem_stride)
        tiles = measure_complexity(name, (image_size, image_size), visible, stem_stride=stem_stride)
        table.add_row(
            name,
            " ".join(map(str, size.depths)),
            " ".join(map(str, size.dims)),
            f"{dense.parameters / 1e6:.1f}",
            *(
                text
                for cost in (dense, tiles)
                for text in (f"{cost.macs / 1e9:.2f}", f"{cost.activations / 1e6:.1f}")
            ),
        )
    Console(width=None if Console().is_terminal else 120).print(table)
