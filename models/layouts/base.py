"""What a layout is: where a network's positions are, and the operations that look across them.

A ConvNeXt looks across space in three places only: the depthwise convolution, the downsampling (the stem is
one, of pixels) and GRN's norm over positions. Everything else works on one position at a time, with channels
last, and does not care how positions are arranged. So a network takes a layout and asks it for those three.
Networks of other families ask for convolutions, pooling and batch norm of any kind, which a layout may have.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.core.errors import UserError
from fcmae.models.kernels.grn_terms import response
from fcmae.models.mask import Mask


class Layout(ABC):
    """Where the positions of a batch of images are, and how to look across them.

    A layout is made for one batch and is passed to the network's forward. Positions are a tensor (..., C)
    whose leading dimensions are the layout's own business.

    Args:
        mask: which patches of these images exist

    Attributes:
        needs_data: the layout cannot run on tensors without data (of the device "meta"), on which it is found
            out what kernels a network calls
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    def check_images(self, images: Tensor, stride: int) -> None:
        """Refuse images that are not those of the mask.

        Args:
            images: (B, C, H, W)
            stride: of the network, the side of a patch

        Raises:
            UserError: another number of images, or patches
        """
        count, (rows, cols) = len(self.mask.visible), self.mask.grid
        height, width = images.shape[2:]
        if (len(images), height, width) != (count, rows * stride, cols * stride):
            raise UserError(
                f"{len(images)} images of {height} x {width} under a mask of {count} images of "
                f"{rows * stride} x {cols * stride} ({rows} x {cols} patches of {stride}): draw one for them"
            )

    @abstractmethod
    def enter(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) into positions (..., C), one for each pixel that exists."""

    @abstractmethod
    def downsample(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """Apply a convolution whose stride is its kernel size: positions (..., C) to fewer (..., C')."""

    @abstractmethod
    def depthwise(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """Apply a depthwise convolution with stride 1 and "same" zero padding: (..., C) to (..., C).

        Positions that do not exist count as zero and produce nothing.
        """

    def convolve(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        """Apply any convolution: positions (..., C) to (..., C'), in which hidden ones count as zero.

        Raises:
            UserError: the layout has no way to do it, or patches would not stay whole
        """
        if is_patchwise(conv):
            return self.downsample(x, conv)
        if is_depthwise(conv):
            return self.depthwise(x, conv)
        raise self._cannot_run(conv)

    def pool(self, x: Tensor, pool: nn.MaxPool2d | nn.AvgPool2d) -> Tensor:
        """Take the largest of each window's positions, or their mean: (..., C) to fewer (..., C).

        Hidden positions take no part.

        Raises:
            UserError: as for `convolve`
        """
        raise self._cannot_run(pool)

    def batch_norm(self, x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """Normalise positions (..., C) by their statistics over the batch; the shape stays.

        In training, running statistics are updated as torch does it, by visible positions alone, and so they
        are what evaluation normalises by (SparK, arXiv 2301.03580, does the same).
        """
        normed: Tensor = norm(x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2))
        return normed.permute(0, 2, 3, 1).reshape(x.shape)

    def _cannot_run(self, module: nn.Module) -> UserError:
        """Return the error of an encoder that asks for what this layout lacks."""
        name = type(self).__name__.removesuffix("Layout").lower()
        return UserError(
            f"layout {name!r} cannot run {module}: it has convolutions whose stride is their kernel, and "
            "depthwise ones of stride 1; use layout 'masked'"
        )

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """Take the L2 norm over each image's positions: (..., C) to (B, C), in float32 for half precision."""

    @abstractmethod
    def spread(self, per_image: Tensor, x: Tensor) -> Tensor:
        """Shape a value for each image, (B, C) or (B, 1), so that it broadcasts against the positions x."""

    def grn(self, x: Tensor, gamma: Tensor, beta: Tensor, over_batch: bool) -> Tensor:
        """Apply GRN (ConvNeXt V2, section 3.3) to positions (..., C), in terms of `norm` and `spread`.

        Args:
            x: positions
            gamma, beta: (C,)
            over_batch: take the norm over the positions of all images, not of each
        """
        norm = self.norm(x)
        if over_batch:
            norm = torch.linalg.vector_norm(norm, dim=0, keepdim=True).expand_as(norm)
        scale = self.spread(1 + gamma * response(norm), x)
        return torch.addcmul(beta.to(x.dtype), x, scale.to(x.dtype))

    def gelu_grn(self, x: Tensor, gamma: Tensor, beta: Tensor, over_batch: bool) -> Tensor:
        """Apply GELU, then `grn`; a layout may have a faster way."""
        return self.grn(F.gelu(x), gamma, beta, over_batch)

    def batch_size(self, x: Tensor) -> int:
        """Return B, the images that the positions x belong to."""
        return x.shape[0]

    @abstractmethod
    def to_map(self, x: Tensor) -> Tensor:
        """Turn positions (..., C) into a map (B, C, H, W), zero where no position exists."""


def is_patchwise(conv: nn.Conv2d) -> bool:
    """Return whether a convolution's windows are square and lie side by side, as `Layout.downsample` asks."""
    kernel = conv.kernel_size
    plain = conv.padding in ((0, 0), "valid") and conv.groups == 1 and conv.dilation == (1, 1)
    return plain and kernel[0] == kernel[1] and conv.stride == kernel


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Return whether a convolution keeps channels apart and the map's size, as `Layout.depthwise` asks."""
    side = conv.kernel_size[0]
    square = conv.kernel_size == (side, side) and conv.stride == conv.dilation == (1, 1)
    same = side % 2 == 1 and conv.padding in ((side // 2, side // 2), "same") and conv.padding_mode == "zeros"
    return square and same and conv.groups == conv.in_channels == conv.out_channels


def visible_positions(mask: Mask, height: int) -> Tensor:
    """Return, as (B, H, W) bool, whether each position of a map of this height lies in a visible patch.

    Raises:
        UserError: patches are no whole number of positions high
    """
    side, rest = divmod(height, mask.grid[0])
    if rest or side == 0:
        raise UserError(
            f"a map of height {height} under a mask of {mask.grid[0]} rows of patches: at every stage, a "
            "patch has to be a whole number of positions high and wide; choose the encoder's padding so"
        )
    visible = (mask.hidden == 0).view(-1, *mask.grid)
    return visible.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
