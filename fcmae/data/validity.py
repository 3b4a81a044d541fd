"""Values that are not there: where --images.no-data names them, an image says which of its values are.

An image of C channels is then uint8 (2 C, H, W): its channels, and C more that are 255 where a value is there
and 0 where none was measured. Crops, flips and turns move both alike, resizing weighs by what is there, and
normalising leaves the C channels, with the mean for what is missing.

Shapes: B batch, C channels, H W pixels.
"""

from torch import Tensor

THERE = 255


def split_validity(images: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Return the values of images and, where they say it, which of them are there.

    Args:
        images: uint8 (..., C, H, W) or (..., 2 C, H, W)
        channels: C

    Returns:
        uint8 (..., C, H, W), and bool of that shape, or None where all values are there
    """
    if images.shape[-3] != 2 * channels:
        return images, None
    values, there = images.split(channels, dim=-3)
    return values, there != 0
