"""The minkowski layout: MinkowskiEngine's sparse tensors over the same weights, for parity with the original.

The engine indexes a kernel with the first spatial coordinate varying fastest, so a dense weight is transposed
on its way in: (C', C, y, x) to (x * y, C, C'), and (C, 1, y, x) to (x * y, C) for a depthwise convolution.

Shapes: B batch, N sites (visible positions of all images), C channels, H W positions, h w patches, k kernel.
"""

import collections
import collections.abc
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fcmae.models.kernels.grn_terms import sum_type
from fcmae.models.layouts.base import Layout, visible_positions
from fcmae.models.mask import Mask


def import_engine() -> ModuleType:
    """Import MinkowskiEngine, with the names it expects of Python's collections restored.

    Raises:
        ImportError: it is not installed
    """
    if not hasattr(collections, "Sequence"):  # removed in Python 3.10; 0.5.4 is older than that
        collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]
    import MinkowskiEngine

    engine: ModuleType = MinkowskiEngine
    return engine


class MinkowskiLayout(Layout):
    """The visible positions of all images, as the features (N, C) of a sparse tensor.

    Args:
        mask: it alone decides which sites exist
    """

    needs_data = True

    def __init__(self, mask: Mask) -> None:
        super().__init__(mask)
        self.engine = import_engine()
        self._size = (0, 0)
        self._manager: Any = None
        self._keys: dict[int, Any] = {}  # the sites of each stage, known by their number

    def enter(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        self._size = (height, width)
        visible = visible_positions(self.mask, height)
        sites = self.engine.SparseTensor(
            images.permute(0, 2, 3, 1)[visible].contiguous(), coordinates=visible.nonzero().int().contiguous()
        )
        self._manager = sites.coordinate_manager
        return self._remember(sites)

    def downsample(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        k = conv.stride[0]
        with torch.random.fork_rng(devices=[]):  # the engine draws weights of its own, which are not used
            module = self.engine.MinkowskiConvolution(
                conv.in_channels,
                conv.out_channels,
                kernel_size=k,
                stride=k,
                bias=conv.bias is not None,
                dimension=2,
            )
        kernel = conv.weight.permute(3, 2, 1, 0).flatten(0, 1)
        return self._apply(module, x, kernel[0] if k == 1 else kernel, conv.bias)

    def depthwise(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            module = self.engine.MinkowskiChannelwiseConvolution(
                conv.in_channels, kernel_size=conv.kernel_size[0], bias=conv.bias is not None, dimension=2
            )
        return self._apply(module, x, conv.weight[:, 0].permute(2, 1, 0).flatten(0, 1), conv.bias)

    def norm(self, x: Tensor) -> Tensor:
        squares = x.to(sum_type(x)).square()
        total = squares.new_zeros(len(self.mask.visible), x.shape[1]).index_add(0, self._image_of(x), squares)
        return total.clamp_min(torch.finfo(total.dtype).tiny).sqrt()  # the slope of sqrt at 0 is infinite

    def spread(self, per_image: Tensor, x: Tensor) -> Tensor:
        return per_image[self._image_of(x)]

    def batch_size(self, x: Tensor) -> int:
        return len(self.mask.visible)

    def to_map(self, x: Tensor) -> Tensor:
        sites = self._sparse(x)
        height, width = (side // stride for side, stride in zip(self._size, sites.tensor_stride, strict=True))
        shape = torch.Size([len(self.mask.visible), x.shape[1], height, width])
        dense: Tensor = sites.dense(shape, min_coordinate=torch.IntTensor([0, 0]))[0]
        return dense

    def _apply(self, module: nn.Module, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Run one of the engine's convolutions with our weights in the place of its own."""
        weights = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias[None]}
        return self._remember(functional_call(module, weights, (self._sparse(x),)))

    def _remember(self, sites: Any) -> Tensor:
        """Return the features (N, C) of a sparse tensor; its sites are known by their number from now on."""
        self._keys[len(sites.F)] = sites.coordinate_map_key
        features: Tensor = sites.F
        return features

    def _sparse(self, x: Tensor) -> Any:
        """Return the sparse tensor of features (N, C) at the sites of that number."""
        return self.engine.SparseTensor(
            x.contiguous(), coordinate_map_key=self._keys[len(x)], coordinate_manager=self._manager
        )

    def _image_of(self, x: Tensor) -> Tensor:
        """Return the image that each site belongs to, (N,) int64."""
        sites: Tensor = self._manager.get_coordinates(self._keys[len(x)])
        return sites[:, 0].long().to(x.device)
