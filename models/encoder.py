"""What an encoder is: a network that can be asked for its stride and features, and runs in a layout.

Shapes: B batch, C channels, H W pixels.
"""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fcmae.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fcmae.models.layouts.base import Layout

ATTRIBUTES = ("in_chans", "stride", "num_features")


@runtime_checkable
class Encoder(Protocol):
    """A network that FCMAE can train.

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


def check_encoder(encoder: "nn.Module") -> None:
    """Refuse a network that does not say what FCMAE has to know of it.

    Raises:
        UserError: the message says what is missing
    """
    missing = [name for name in ATTRIBUTES if not isinstance(getattr(encoder, name, None), int)]
    if not callable(getattr(encoder, "forward_features", None)):
        missing.append("forward_features(images, layout)")
    if missing:
        raise UserError(
            f"{type(encoder).__name__} is no encoder, for it lacks {', '.join(missing)}: docs/extending.md "
            "says what an encoder has"
        )
