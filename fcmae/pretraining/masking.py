"""Which patches are hidden: random masks, and images as patches of pixels.

Shapes: B batch, L = h * w patches, C channels, H W pixels, P patch side.
"""

import torch
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.models.mask import Mask


def random_mask(
    batch: int, grid: tuple[int, int], num_visible: int, generator: torch.Generator | None = None
) -> Mask:
    """Draw `num_visible` patches of each image, uniformly at random.

    Args:
        batch: B
        grid: (h, w)
        num_visible: patches that are not hidden
        generator: draws, and its device is the mask's; by default torch's own generator on the CPU

    Raises:
        UserError: everything or nothing would be hidden
    """
    order = _random_order(batch, grid, num_visible, generator)
    return Mask(order[:, :num_visible].sort(dim=1).values, grid)


def random_mask_of_data(
    has_data: Tensor, grid: tuple[int, int], num_visible: int, generator: torch.Generator | None = None
) -> Mask:
    """Draw `num_visible` patches of each image, the same fraction of those with data as of those without.

    A network that saw all empty patches instead, which tell it nothing, would have less to see than the ratio
    says. Of two patches with data or more, one at least is visible and one hidden. Where all have data, the
    mask is that of `random_mask`.

    Args:
        has_data: bool (B, L), on the CPU
        grid, num_visible, generator: as for `random_mask`

    Raises:
        UserError: everything or nothing would be hidden
    """
    order = _random_order(len(has_data), grid, num_visible, generator)
    data = has_data.gather(1, order)
    count = data.sum(1, keepdim=True)
    of_data = (count * num_visible / data.shape[1]).round().clamp(min=1)
    of_data = torch.minimum(of_data, (count - 1).clamp(min=0))
    taken = torch.where(data, data.cumsum(1) <= of_data, (~data).cumsum(1) <= num_visible - of_data)
    return Mask(order[taken].view(-1, num_visible).sort(dim=1).values, grid)


def _random_order(
    batch: int, grid: tuple[int, int], num_visible: int, generator: torch.Generator | None
) -> Tensor:
    """Draw an order of the patches of each image, (B, L), of which the first so many will be visible."""
    if not 0 < num_visible < grid[0] * grid[1]:
        raise UserError(
            f"num_visible {num_visible} of {grid[0]} x {grid[1]} patches: choose 1 to {grid[0] * grid[1] - 1}"
        )
    shape = batch, grid[0] * grid[1]
    if generator is None:  # said to torch as None, one would not compile for any batch
        scores = torch.rand(shape, device="cpu")
    else:
        scores = torch.rand(shape, generator=generator, device=generator.device)
    return scores.argsort(dim=1)


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, L, P * P * C), pixel by pixel, a pixel's channels together.

    Args:
        images: height and width are multiples of P
        patch: P
    """
    batch, channels, height, width = images.shape
    x = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch: int, image_size: tuple[int, int]) -> Tensor:
    """Put patches (B, L, P * P * C) together to images (B, C, H, W): the inverse of `patchify`.

    Args:
        patches: pixel by pixel, a pixel's channels together
        patch: P
        image_size: (H, W), multiples of P
    """
    rows, cols = image_size[0] // patch, image_size[1] // patch
    x = patches.reshape(len(patches), rows, cols, patch, patch, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, *image_size)
