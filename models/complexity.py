"""What a network costs: parameters, multiply-adds and activations of one image, in any layout."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fcmae.models.convnext import create_model
from fcmae.models.layouts.tiles import TilesLayout
from fcmae.models.mask import Mask

aten = torch.ops.aten
PRODUCTS = {
    aten.convolution.default,
    aten.addmm.default,
    aten.mm.default,
    aten.bmm.default,
    aten.linear.default,
}


@dataclass(frozen=True)
class Complexity:
    """The cost of a forward pass over one image.

    Args:
        parameters: numbers to train
        macs: multiply-adds of convolutions and linear layers, and five operations for each number that a
            layer norm puts out: what the ConvNeXt papers print as FLOPs, following fvcore
        activations: numbers that convolutions and linear layers put out, as timm and fvcore count them
    """

    parameters: int
    macs: int
    activations: int


def measure_complexity(
    name: str, image_size: tuple[int, int] = (224, 224), num_visible: int | None = None, **options: Any
) -> Complexity:
    """Count on tensors without data, so that the largest network takes no memory.

    Args:
        name: of `list_models()`
        image_size: (height, width)
        num_visible: visible patches, counted in the tiles layout; by default all, in the dense one
        **options: of `create_model`
    """
    with torch.device("meta"):
        network = create_model(name, **options)
        images = torch.empty(1, network.in_chans, *image_size)
    layout = None
    if num_visible is not None:
        grid = image_size[0] // network.stride, image_size[1] // network.stride
        layout = TilesLayout(Mask(torch.empty(1, num_visible, dtype=torch.int64, device="meta"), grid))
    norms = {aten.native_layer_norm.default.overloadpacket: _layer_norm_flops}
    counter = FlopCounterMode(display=False, custom_mapping=norms)
    with torch.no_grad(), counter as flops, _CountActivations() as activations:
        if layout is None:
            network(images)
        else:
            network.forward_features(images, layout)
    parameters = sum(each.numel() for each in network.parameters())
    return Complexity(parameters, flops.get_total_flops() // 2, activations.total)


def _layer_norm_flops(shape: torch.Size, *_: Any, **__: Any) -> int:
    """Count twice fvcore's five for each number, since the total is halved."""
    return 10 * shape.numel()


class _CountActivations(TorchDispatchMode):
    """Adds up the sizes of what convolutions and matrix products put out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function in PRODUCTS:
            self.total += out.numel()
        return out
