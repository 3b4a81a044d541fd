"""What an encoder is: a network that can be asked for its stride and features, and runs in a layout.

Shapes: B batch, C channels, H W pixels.
"""

import inspect
from typing import TYPE_CHECKING, Protocol, cast

from torch import nn

from fcmae.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from fcmae.models.layouts.base import Layout

ATTRIBUTES = ("in_chans", "stride", "num_features")


class Encoder(Protocol):
    """A network, an nn.Module, that FCMAE can train.

    It leaves to the layout whatever looks across space (`convolve`, `pool`, `batch_norm`, and the faster
    `downsample` and `depthwise`), and does the rest on positions with their channels last.

    Attributes:
        in_chans: C, channels of the images
        stride: pixels to a position of the last map, in both directions: the side of a mask's patches
        num_features: C', channels of the last map
    """

    in_chans: int
    stride: int
    num_features: int

    def forward_features(self, images: "Tensor", layout: "Layout") -> "Tensor":
        """Return the last map: images (B, C, H, W) to (B, C', H / stride, W / stride), zero where hidden."""


def check_encoder(encoder: object) -> Encoder:
    """Return a network as the encoder that it is, or refuse what does not say what FCMAE has to know of it.

    Raises:
        UserError: the message says what is missing or wrong
    """
    kind, known = type(encoder).__name__, cast(Encoder, encoder)
    if not isinstance(encoder, nn.Module):
        raise UserError(f"encoder {encoder!r} is a {kind}: give a name, or a network (an nn.Module)")
    missing = [name for name in ATTRIBUTES if not hasattr(encoder, name)]
    if not callable(getattr(encoder, "forward_features", None)):
        missing.append("forward_features(images, layout)")
    if missing:
        raise UserError(
            f"{kind} is no encoder, for it lacks {', '.join(missing)}: docs/extending.md says what an "
            "encoder has"
        )
    for name in ATTRIBUTES:
        value = getattr(encoder, name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{kind}.{name} is {value!r}: an encoder has a number of at least 1 there")
    try:
        inspect.signature(known.forward_features).bind("images", "layout")
    except TypeError as error:
        raise UserError(
            f"{kind}.forward_features does not take images and a layout ({error}): docs/extending.md says "
            "what an encoder does with them"
        ) from error
    return known
