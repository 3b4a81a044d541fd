"""The masked layout: the specification of a sparse convolution, short, slow and obviously right.

All positions are there, but hidden ones are set to zero before and after every operation that looks across
space, and are kept out of GRN's sum. What stands at a hidden position in between never reaches a visible one.

Shapes: B batch, C channels, H W positions, h w patches.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fcmae.core.errors import UserError
from fcmae.models.layouts.base import Layout, visible_positions
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.mask import Mask


class MaskedLayout(DenseLayout):
    """All positions as (B, H, W, C), hidden ones zeroed around every spatial operation.

    Args:
        mask: says which patches are hidden
    """

    gelu_grn = Layout.gelu_grn
    check_images = Layout.check_images

    def __init__(self, mask: Mask) -> None:
        Layout.__init__(self, mask)

    def enter(self, images: Tensor) -> Tensor:
        self.check_images(images, max(images.shape[2] // self.mask.grid[0], 1))
        return self._hide(super().enter(images))

    def downsample(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        return self._hide(super().downsample(self._hide(x), conv))

    def depthwise(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        return self._hide(super().depthwise(self._hide(x), conv))

    def convolve(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        out = super().convolve(self._hide(x), conv)
        self._check_patches(conv, x, out)
        return self._hide(out)

    def pool(self, x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d) -> Tensor:
        """Take the largest of a window's visible positions, or their mean.

        Where torch counts the padding around a map in a mean, so does this.
        """
        if isinstance(pool, nn.MaxPool2d):
            out = super().pool(self._hide(x, -torch.inf), pool)
        else:
            ones = x.new_ones(x.shape[:-1])[..., None]
            inside = super().pool(ones, pool) / super().pool(self._hide(ones), pool)
            out = super().pool(self._hide(x), pool) * inside
        self._check_patches(pool, x, out)
        return self._hide(out)

    def batch_norm(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        rows, cols = self.mask.grid
        patches = x.unflatten(2, (cols, -1)).unflatten(1, (rows, -1)).transpose(2, 3)  # (B, h, w, p, p, C)
        image = torch.arange(len(x), device=x.device)[:, None]
        visible = image, self.mask.visible // cols, self.mask.visible % cols
        normed = Layout.batch_norm(self, patches[visible], norm)
        out = torch.zeros_like(patches, dtype=normed.dtype).index_put(visible, normed)
        return out.transpose(2, 3).reshape(x.shape)

    def norm(self, x: Tensor) -> Tensor:
        return super().norm(self._hide(x))

    def to_map(self, x: Tensor) -> Tensor:
        return super().to_map(self._hide(x))

    def _hide(self, x: Tensor, value: float = 0.0) -> Tensor:
        """Set hidden positions to a value, whatever stood there (a product with 0 would let NaN through)."""
        return torch.where(visible_positions(self.mask, x.shape[1])[..., None], x, value)

    def _check_patches(self, module: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, x: Tensor, out: Tensor) -> None:
        """Refuse a map on which a patch is not a whole number of positions, or not where it was.

        Args:
            module: what made it
            x, out: what went in and came out: (B, H, W, C) and (B, H', W', C')

        Raises:
            UserError: the message says the sizes
        """
        (height, width), (rows, cols) = out.shape[1:3], self.mask.grid
        down, across = _pair(module.stride)
        if (height * down, width * across) != x.shape[1:3] or height % rows or width % cols:
            raise UserError(
                f"{module} makes a map of {height} x {width} of one of {x.shape[1]} x {x.shape[2]}, under a "
                f"mask of {rows} x {cols} patches: a patch has to stay a whole number of positions at every "
                "stage; choose strides that divide the map, and half the kernel as padding"
            )
