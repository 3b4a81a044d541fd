"""Values that are not there: where --images.no-data names them, an image says which of its values are.

An image of C channels is then uint8 (2 C, H, W): its channels, and C more that are 255 where a value is there
and 0 where none was measured. Crops, flips and turns move both alike, resizing weighs by what is there, and
normalising leaves the C channels, with the mean for what is missing.

Shapes: B batch, C channels, H W pixels.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

NoData = float | str
"""A value that means none; or nan, whatever is not finite; or mask, where the last channel is 0."""

NAN, MASK = "nan", "mask"
THERE = 255
LEAST = 0.5  # of the weights of what a pixel is made of that has to be there


def find_data(array: np.ndarray, no_data: NoData) -> np.ndarray:
    """Tell which values of an array are data: bool of its shape.

    Args:
        array: stored values
        no_data: a number, or nan
    """
    finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    data: np.ndarray = finite if isinstance(no_data, str) else finite & (array != no_data)
    return data


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


def resize_data(image: Tensor, channels: int | None, resize: Callable[[Tensor], Tensor]) -> Tensor:
    """Resize an image so that what is not there takes no part: weighed sums over the sums of the weights.

    Args:
        image: uint8 (C, H, W) or (2 C, H, W)
        channels: C; None where all is there
        resize: linear, of uint8 or float32 (any number, H, W)

    Returns:
        uint8 of as many channels; a value is there where at least half of what it is made of is
    """
    values, there = (image, None) if channels is None else split_validity(image, channels)
    if there is None:
        return resize(values)
    if there.all():  # then it is to the bit what it is without a no-data value
        values = resize(values)
        return torch.cat([values, torch.full_like(values, THERE)])
    weights = there.float()
    sums, weights = resize(torch.cat([values * weights, weights])).chunk(2)
    gaps = weights < LEAST
    values = (sums / weights).round_().clamp_(0, 255).masked_fill_(gaps, 0)
    return torch.cat([values, torch.where(gaps, 0, THERE)]).to(torch.uint8)


def fill_gaps(image: Tensor, mean: tuple[float, ...]) -> Tensor:
    """Put the mean where no value is, for what cannot leave values out.

    Args:
        image: uint8 (C, H, W) or (2 C, H, W)
        mean: of pixels in 0..1, C numbers

    Returns:
        uint8 (C, H, W)
    """
    values, there = split_validity(image, len(mean))
    if there is None:
        return values
    filling = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)
    return torch.where(there, values, filling[:, None, None])
