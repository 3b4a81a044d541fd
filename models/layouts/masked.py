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

    def norm(self, x: Tensor) -> Tensor:
        return super().norm(self._hide(x))

    def to_map(self, x: Tensor) -> Tensor:
        return super().to_map(self._hide(x))

    def _hide(self, x: Tensor) -> Tensor:
        """Zero at hidden positions, whatever stood there (a product with 0 would let NaN through)."""
        return torch.where(visible_positions(self.mask, x.shape[1])[..., None], x, 0.0)
