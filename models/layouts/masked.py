"""The masked layout: the specification of a sparse convolution, short, slow and obviously right.

All positions are there, but hidden ones are set to zero before and after every operation that looks across
space, and are kept out of GRN's sum. What stands at a hidden position in between never reaches a visible one.

Shapes: B batch, C channels, H W positions, h w patches.
"""

import torch
from torch import Tensor, nn

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
        return self._hide(super().enter(images))

    def downsample(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        return self._hide(super().downsample(self._hide(x), conv))

    def depthwise(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        return self._hide(super().depthwise(self._hide(x), conv))

    def convolve(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        return self._hide(super().convolve(self._hide(x), conv))

    def pool(self, x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d) -> Tensor:
        """Take the largest of a window's visible positions, or their mean; torch counts padding as pixels."""
        if isinstance(pool, nn.MaxPool2d):
            return self._hide(super().pool(self._hide(x, -torch.inf), pool))
        visible = visible_positions(self.mask, x.shape[1])[..., None].to(x.dtype)
        summed, seen = super().pool(self._hide(x), pool), super().pool(visible, pool)
        return self._hide(summed / seen * super().pool(torch.ones_like(visible), pool))

    def batch_norm(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Normalise visible positions by their own statistics, as SparK does (arXiv 2301.03580)."""
        visible = visible_positions(self.mask, x.shape[1])
        rows: Tensor = norm(x[visible].T[None, :, :, None])[0, :, :, 0].T
        return x.new_zeros(x.shape).to(rows.dtype).index_put((visible,), rows)

    def norm(self, x: Tensor) -> Tensor:
        return super().norm(self._hide(x))

    def to_map(self, x: Tensor) -> Tensor:
        return super().to_map(self._hide(x))

    def _hide(self, x: Tensor, value: float = 0.0) -> Tensor:
        """Set hidden positions to a value, whatever stood there (a product with 0 would let NaN through)."""
        return torch.where(visible_positions(self.mask, x.shape[1])[..., None], x, value)
