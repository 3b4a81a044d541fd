"""The layouts a network runs in, and how to make one for a batch's mask."""

from fcmae.models.layouts.base import Layout
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.layouts.masked import MaskedLayout
from fcmae.models.layouts.minkowski import MinkowskiLayout
from fcmae.models.layouts.tiles import TilesLayout
from fcmae.models.mask import Mask

SPARSE_LAYOUTS = ("tiles", "masked", "minkowski")

__all__ = [
    "SPARSE_LAYOUTS",
    "DenseLayout",
    "Layout",
    "MaskedLayout",
    "MinkowskiLayout",
    "TilesLayout",
    "create_layout",
]


def create_layout(name: str, mask: Mask) -> Layout:
    """Return the layout of that name for one batch.

    Args:
        name: tiles, masked or minkowski; or dense, which takes no notice of the mask
        mask: of the batch

    Raises:
        ValueError: unknown name
        ImportError: MinkowskiEngine is asked for and not installed
    """
    if name == "tiles":
        return TilesLayout(mask)
    if name == "masked":
        return MaskedLayout(mask)
    if name == "minkowski":
        return MinkowskiLayout(mask)
    if name == "dense":
        return DenseLayout()
    raise ValueError(f"unknown layout {name!r}: choose one of {', '.join((*SPARSE_LAYOUTS, 'dense'))}")
