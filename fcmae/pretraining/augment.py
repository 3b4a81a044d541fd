"""Colours, blur and missing channels: augmentation whose numbers the readers draw and the device applies.

A reader draws by the sample's seed, so that a run is the same whoever reads and wherever it is resumed. The
network's device changes a whole batch at once, each image by its own numbers, and leaves the readers their
time for decoding. Brightness, contrast and saturation are torchvision's, always in this order; the blur has
the widths of SimCLR (Chen et al., arXiv 2002.05709).

Shapes: B batch, C channels, H W pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.pretraining.config import PretrainAugmentConfig

LUMA = (0.299, 0.587, 0.114)  # grey of red, green, blue: ITU-R BT.601, as torchvision's
SIGMA = (0.1, 2.0)  # pixels, smallest and largest width of the blur
RADIUS = math.ceil(3 * SIGMA[1])
NO_BLUR = 1e-3  # a width at which the kernel is a single pixel, exactly

Drawn = dict[str, Tensor]
"""The numbers by which an image is changed, by name; of a batch, with B in front."""


class Augmentation:
    """What is done to an image beside crop, turn and flips.

    Three channels are colours, which grow brighter together; others are bands, each with its own brightness
    and contrast.

    Args:
        config: the settings
        channels: C
    """

    def __init__(self, config: PretrainAugmentConfig, channels: int) -> None:
        self.config, self.channels = config, channels
        self.in_colour = channels == len(LUMA)

    def draw(self) -> Drawn:
        """Draw the numbers of one image from torch's global generator; none for what is off."""
        config, drawn = self.config, {}
        if config.color_jitter > 0:
            names = ("brightness", "contrast", "saturation") if self.in_colour else ("brightness", "contrast")
            for name in names:
                number = torch.rand(1 if self.in_colour else self.channels)
                drawn[name] = 1 + config.color_jitter * (2 * number - 1)
        if config.grey > 0:
            drawn["grey"] = (torch.rand(1) < config.grey).float()
        if config.blur > 0:
            sigma = torch.empty(1).uniform_(*SIGMA)
            drawn["sigma"] = torch.where(torch.rand(1) < config.blur, sigma, NO_BLUR)
        if config.channel_drop > 0:
            drawn["kept"] = torch.rand(self.channels) >= config.channel_drop
            drawn["kept"][torch.randint(self.channels, ())] = True
        return drawn

    def apply(self, images: Tensor, there: Tensor | None, drawn: Drawn) -> tuple[Tensor, Tensor | None]:
        """Change a batch by what was drawn for each image. A channel that is dropped has no data.

        Args:
            images: uint8 (B, C, H, W)
            there: bool (B, C, H, W), false where the images have no data; None where all is there
            drawn: of each image, with B in front

        Returns:
            float32 images in 0..255, and which of their values are there, as was given
        """
        with torch.autocast(images.device.type, enabled=False):
            return self._apply(images.float(), there, drawn)

    def _apply(self, x: Tensor, there: Tensor | None, drawn: Drawn) -> tuple[Tensor, Tensor | None]:
        """Change a batch (B, C, H, W) in place."""
        if there is not None:
            x = torch.where(there, x, _mean(x, there))
        numbers = {name: value[..., None, None] for name, value in drawn.items()}
        if "brightness" in drawn:
            x.mul_(numbers["brightness"]).clamp_(0, 255)
            _mix(x, self._grey(_mean(x, None)), numbers["contrast"])
        if "saturation" in drawn:
            _mix(x, self._grey(x), numbers["saturation"])
        if "grey" in drawn:
            _mix(x, self._grey(x), 1 - numbers["grey"])
        if "sigma" in drawn:
            x = _blur(x, there, drawn["sigma"][:, 0])
        if "kept" in drawn:
            kept = numbers["kept"].expand_as(x)
            there = kept if there is None else there & kept
        return x, there

    def _grey(self, x: Tensor) -> Tensor:
        """Return the grey of colours, (B, 1, H, W); bands as they are."""
        if not self.in_colour:
            return x
        return sum(weight * x[:, i : i + 1] for i, weight in enumerate(LUMA))  # type: ignore[return-value]


def _mix(x: Tensor, other: Tensor, fraction: Tensor) -> None:
    """Make x, in place, a fraction of itself and the rest of another; the fraction may be more than 1."""
    x.mul_(fraction).add_(other * (1 - fraction)).clamp_(0, 255)


def _mean(x: Tensor, there: Tensor | None) -> Tensor:
    """Return each channel's mean, (B, C, 1, 1), over what is there."""
    if there is None:
        return x.mean((2, 3), keepdim=True)
    return (x * there).sum((2, 3), keepdim=True) / there.sum((2, 3), keepdim=True).clamp(min=1)


def _blur(x: Tensor, there: Tensor | None, sigma: Tensor) -> Tensor:
    """Blur each image (C, H, W) by a Gaussian of its own width, sigma (B,), over what is there."""
    if there is not None:
        known = there.float()
        return _blur(x * known, None, sigma) / _blur(known, None, sigma).clamp(min=NO_BLUR)
    batch, channels, height, width = x.shape
    at = torch.arange(-RADIUS, RADIUS + 1, device=x.device)
    kernel = torch.exp(-at.square() / (2 * sigma[:, None].square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None]
    x = F.pad(x.reshape(1, -1, height, width), (RADIUS,) * 4, mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))
    return x.view(batch, channels, height, width)
