"""The tiles layout: only the visible patches, so that a hidden patch costs nothing. For pre-training.

The mask is drawn per patch, so at every stage the visible positions are whole p x p tiles (p = 8, 4, 2, 1).
The stem and the downsamplings never leave a tile; only the depthwise convolution looks at the neighbours.

Shapes: B batch, V visible patches of an image, p tile side, C channels, H W positions, h w patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.core.errors import UserError
from fcmae.models.kernels.choice import use_triton
from fcmae.models.kernels.depthwise import as_stored, depthwise_tiles
from fcmae.models.kernels.grn import gelu_grn
from fcmae.models.kernels.grn_terms import sum_type
from fcmae.models.kernels.pointwise import pointwise
from fcmae.models.kernels.rows import gather_rows, scatter_rows
from fcmae.models.layouts.base import Layout
from fcmae.models.mask import Mask

SMALL_TILE = 2  # side up to which the dense map is faster in PyTorch; see docs/performance.md


class TilesLayout(Layout):
    """The visible patches of every image, as (B, V, p, p, C).

    Args:
        mask: says which patches are visible
    """

    def __init__(self, mask: Mask) -> None:
        super().__init__(mask)
        self.visible, self.grid = mask.visible, mask.grid
        self._tables: dict[tuple[str, int, int], Tensor] = {}

    def enter(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        rows, cols = self.grid
        patches = images.reshape(batch, channels, rows, height // rows, cols, width // cols)
        patches = patches.permute(0, 2, 4, 3, 5, 1)  # (B, h, w, P, P, C)
        image = torch.arange(batch, device=images.device)[:, None]
        return patches[image, self.visible // cols, self.visible % cols]

    def downsample(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        batch, visible, p, _, channels = x.shape
        k = conv.stride[0]
        if p % k:
            raise UserError(
                f"{conv} would cut patches of {p} x {p} positions: choose a stride that divides it"
            )
        x = x.reshape(batch, visible, p // k, k, p // k, k, channels).transpose(3, 4)
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # (C', k * k * C): a product of rows
        return pointwise(x.flatten(4), weight, conv.bias)

    def depthwise(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        p, kernel = x.shape[2], conv.kernel_size[0]
        if p > SMALL_TILE or use_triton("auto", x) or x.is_meta:  # without data, what is needed is counted
            return depthwise_tiles(x, conv.weight, conv.bias, self._halo_table(p, kernel))
        # In PyTorch, small tiles would gather many times what they hold: the dense map is cheaper.
        out = F.conv2d(
            self.to_map(x), as_stored(conv.weight), conv.bias, padding=kernel // 2, groups=conv.groups
        )
        return gather_rows(out.permute(0, 2, 3, 1).flatten(0, 2), self._pixel_table(p)).view_as(x)

    def norm(self, x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), dtype=sum_type(x))
        return norm

    def spread(self, per_image: Tensor, x: Tensor) -> Tensor:
        return per_image[:, None, None, None, :]

    def gelu_grn(self, x: Tensor, gamma: Tensor, beta: Tensor, over_batch: bool) -> Tensor:
        return gelu_grn(x, gamma, beta, over_batch)

    def to_map(self, x: Tensor) -> Tensor:
        batch, _, p, _, channels = x.shape
        height, width = self.grid[0] * p, self.grid[1] * p
        rows = scatter_rows(x.flatten(0, 3), self._pixel_table(p), batch * height * width)
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def _pixel_table(self, p: int) -> Tensor:
        """Return where the visible positions, (B * V * p * p,), stand in the dense map's rows (B * H * W)."""
        key = ("pixel", p, 0)
        if key not in self._tables:
            rows, cols = self.grid
            y, x = self._positions(p, torch.arange(p, device=self.visible.device))
            image = torch.arange(len(self.visible), device=self.visible.device).view(-1, 1, 1, 1)
            self._tables[key] = ((image * rows * p + y) * cols * p + x).flatten()
        return self._tables[key]

    def _halo_table(self, p: int, kernel: int) -> Tensor:
        """Return which row of x a position of a tile and its halo is: (B * V, q, q) for q = p + kernel - 1.

        The row after the last, B * V * p * p, stands for zero: hidden, or outside the image.
        """
        key = ("halo", p, kernel)
        if key not in self._tables:
            batch, count = self.visible.shape
            rows, cols = self.grid
            device = self.visible.device
            slots = torch.full((batch, rows * cols), -1, device=device)  # where a patch is among the visible
            slots.scatter_(1, self.visible, torch.arange(batch * count, device=device).view(batch, count))
            y, x = self._positions(p, torch.arange(-(kernel // 2), p + kernel // 2, device=device))
            inside = (y >= 0) & (y < rows * p) & (x >= 0) & (x < cols * p)
            patch = y.div(p, rounding_mode="floor") * cols + x.div(p, rounding_mode="floor")
            slot = slots.gather(1, patch.where(inside, 0).flatten(1)).view_as(patch)
            table = slot * p * p + y.remainder(p) * p + x.remainder(p)
            self._tables[key] = table.where(inside & (slot >= 0), batch * count * p * p).flatten(0, 1)
        return self._tables[key]

    def _positions(self, p: int, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows and columns in the dense map, two (B, V, n, n), of n x n offsets from each corner."""
        cols = self.grid[1]
        corner = self.visible[:, :, None, None]
        y = corner.div(cols, rounding_mode="floor") * p + offsets[:, None]
        x = corner.remainder(cols) * p + offsets[None, :]
        return y.expand(-1, -1, -1, len(offsets)), x.expand(-1, -1, len(offsets), -1)
