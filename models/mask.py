"""Which patches of a batch's images are visible: all that a masked batch carries beside its images.

Shapes: B batch, V visible patches of an image, L = h * w patches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fcmae.core.errors import UserError


@dataclass(frozen=True)
class Mask:
    """The visible patches of each image of a batch, equally many in every image; the others are hidden.

    Args:
        visible: (B, V) int64, an image's visible patches by their row-major numbers, ascending
        grid: (h, w), rows and columns of patches of an image

    Raises:
        UserError: numbers of another shape or type, or more of them than there are patches
    """

    visible: Tensor
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        patches = self.grid[0] * self.grid[1]
        if self.visible.ndim != 2 or self.visible.dtype != torch.int64 or self.visible.shape[1] > patches:
            raise UserError(
                f"visible is {self.visible.dtype} of {tuple(self.visible.shape)}: a mask of {self.grid[0]} x "
                f"{self.grid[1]} patches has int64 numbers (B, V) of at most {patches} an image; from_hidden "
                "makes it from a picture"
            )

    @classmethod
    def from_hidden(cls, hidden: Tensor, grid: tuple[int, int]) -> "Mask":
        """Return the mask that hides the patches at which `hidden` is not zero.

        Args:
            hidden: (B, L) or (B, h, w), of any type
            grid: (h, w)

        Raises:
            UserError: another shape, images that differ in their number of visible patches, or a mask that
                hides everything or nothing
        """
        rows, cols = grid
        if hidden.shape[1:] not in ((rows * cols,), (rows, cols)):
            raise UserError(f"a mask of {tuple(hidden.shape)} is not one of {rows} x {cols} patches an image")
        if len(hidden) == 0:
            return cls(torch.empty(0, 1, dtype=torch.int64, device=hidden.device), grid)
        hidden = hidden.flatten(1) != 0
        counts = (~hidden).sum(1).unique().tolist()
        if len(counts) != 1:
            raise UserError(f"a mask has equally many visible patches in every image, not {counts}")
        if counts[0] in (0, rows * cols):
            raise UserError(f"the mask hides {'nothing' if counts[0] else 'every patch'}: hide some patches")
        return cls((~hidden).nonzero()[:, 1].view(len(hidden), counts[0]), grid)

    @property
    def hidden(self) -> Tensor:
        """(B, L) float32, 1 where a patch is hidden and 0 where it is visible."""
        rows, cols = self.grid
        return torch.ones(len(self.visible), rows * cols, device=self.visible.device).scatter_(
            1, self.visible, 0.0
        )

    def to(self, device: torch.device | str) -> "Mask":
        """Return the mask on a device."""
        return Mask(self.visible.to(device), self.grid)
