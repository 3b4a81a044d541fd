"""The built-in data: scikit-learn's 1,797 handwritten digits, enlarged."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener, SourceOptions

if TYPE_CHECKING:
    from torch import Tensor

    from fcmae.data.images import ArraySource, Labelled

DIGITS = "digits"
NUM_DIGITS = 1797


class DigitsOpener(Opener):
    """The digits, which need no file: the first run of a new installation."""

    recipe = "digits"

    @classmethod
    def matches(cls, spec: str) -> bool:
        return spec == DIGITS

    def counts(self, lists: Sequence[ImageIndex]) -> list[int]:
        return [NUM_DIGITS]

    def open_images(self, options: SourceOptions) -> "ArraySource":
        from fcmae.data.images import ArraySource

        return ArraySource(load_digits_images(options.size, options.channels)[0], "digit")

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        from fcmae.data.images import ArraySource, Labelled

        images, labels = load_digits_images(options.size, options.channels)
        digits = Labelled(ArraySource(images, "digit"), labels, [str(i) for i in range(10)])
        return digits.split(options.val_fraction, options.seed)


def load_digits_images(size: int, channels: int = 1) -> tuple["Tensor", "Tensor"]:
    """Enlarge the 8 x 8 digits of the UCI "Optical Recognition of Handwritten Digits" test set (bicubic).

    Args:
        size: side of the images in pixels
        channels: 1, or any number of equal channels

    Returns:
        images uint8 (1797, channels, size, size), white on black, and labels int64 (1797,)
    """
    import torch
    from sklearn.datasets import load_digits
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    images = F.resize(images, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return images.expand(-1, channels, -1, -1).contiguous(), torch.from_numpy(digits.target).to(torch.int64)
