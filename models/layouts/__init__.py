"""The layouts a network runs in, and how to make one for a batch's mask."""

import torch
from torch import Tensor

from fcmae.models.layouts.base import Layout
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.layouts.masked import MaskedLayout
from fcmae.models.layouts.minkowski import MinkowskiLayout
from fcmae.models.layouts.tiles import TilesLayout

SPARSE_LAYOUTS = ("tiles", "masked", "minkowski")

__all__ = [
    "SPARSE_LAYOUTS",
    "DenseLayout",
    "Layout",
    "MaskedLayout",
    "MinkowskiLayout",
    "TilesLayout",
    "create_layout",
    "visible_patches",
]


def create_layout(name: str, mask: Tensor, *, num_visible: int | None = None) -> Layout:
    """The layout of that name for one batch.

    Args:
        name: tiles, masked or minkowski; or dense, which takes no notice of the mask
        mask: (B, h, w), nonzero where a patch is hidden
        num_visible: visible patches of every image, where known: see `visible_patches`

    Raises:
        ValueError: unknown name, or (tiles) images with different numbers of visible patches
        ImportError: MinkowskiEngine is asked for and not installed
    """
    if name == "tiles":
        return TilesLayout(visible_patches(mask.flatten(1), num_visible), (mask.shape[1], mask.shape[2]))
    if name == "masked":
        return MaskedLayout(mask)
    if name == "minkowski":
        return MinkowskiLayout(mask)
    if name == "dense":
        return DenseLayout()
    raise ValueError(f"unknown layout {name!r}: choose one of {', '.join((*SPARSE_LAYOUTS, 'dense'))}")


def visible_patches(mask: Tensor, num_visible: int | None = None) -> Tensor:
    """The numbers of the visible patches of each image, ascending: (B, L) mask to (B, V) int64.

    Args:
        mask: (B, L), nonzero where a patch is hidden
        num_visible: V. Where it is not given it is counted and checked, which waits for the device

    Raises:
        ValueError: V is counted, and images differ in it or have no visible patch
    """
    hidden = mask != 0
    if num_visible is None:
        counts = torch.unique((~hidden).sum(1)).tolist()
        if len(counts) != 1:
            raise ValueError(
                f"layout 'tiles' needs equally many visible patches in every image, not {counts}"
            )
        num_visible = counts[0]
        if num_visible == 0:
            raise ValueError("the mask hides every patch: at least one must be visible")
    return hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, :num_visible]
