"""The published sizes of ConvNeXt V1 (arXiv 2201.03545, table 9) and V2 (arXiv 2301.00808, table 10)."""

import difflib
from dataclasses import dataclass

from fcmae.core.errors import UserError


@dataclass(frozen=True)
class Size:
    """Blocks and width of each of the four stages, and the generation of the blocks.

    Args:
        depths, dims: blocks and channels of each stage
        layer_scale: V1's initial scale of the residual branches; None is V2, with GRN in its place

    Raises:
        UserError: not four numbers each, or one below 1
    """

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        for name, values in (("depths", self.depths), ("dims", self.dims)):
            if len(values) != 4 or min(values) < 1:
                raise UserError(
                    f"{name} {tuple(values)}: give a number of at least 1 for each of four stages"
                )


LAYER_SCALE = 1e-6  # of V1

SIZES = {
    "convnext_tiny": Size((3, 3, 9, 3), (96, 192, 384, 768), LAYER_SCALE),
    "convnext_small": Size((3, 3, 27, 3), (96, 192, 384, 768), LAYER_SCALE),
    "convnext_base": Size((3, 3, 27, 3), (128, 256, 512, 1024), LAYER_SCALE),
    "convnext_large": Size((3, 3, 27, 3), (192, 384, 768, 1536), LAYER_SCALE),
    "convnext_xlarge": Size((3, 3, 27, 3), (256, 512, 1024, 2048), LAYER_SCALE),
    "convnextv2_atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnextv2_femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnextv2_pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnextv2_nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnextv2_tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnextv2_base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnextv2_large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnextv2_huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816)),
}


def list_models() -> list[str]:
    """Return the names that `create_model` knows."""
    return list(SIZES)


def name_of(size: Size) -> str:
    """Return the published name of a size; of another one, that of the same generation's tiny."""
    alike = "convnext_tiny" if size.layer_scale else "convnextv2_tiny"
    return next((name for name, published in SIZES.items() if published == size), alike)


def find_size(name: str) -> Size:
    """Return the size of that name.

    Raises:
        UserError: unknown name; the message suggests the nearest one
    """
    if name in SIZES:
        return SIZES[name]
    nearest = difflib.get_close_matches(name, SIZES, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(SIZES)}"
    raise UserError(f"unknown model {name!r}: {hint}")
