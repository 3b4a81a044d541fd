"""The built-in data: scikit-learn's 1,797 handwritten digits, enlarged."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F


def load_digits_images(size: int, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Enlarge the 8 x 8 digits of the UCI "Optical Recognition of Handwritten Digits" test set (bicubic).

    Args:
        size: side of the images in pixels
        channels: 1, or any number of equal channels

    Returns:
        images uint8 (1797, channels, size, size), white on black, and labels int64 (1797,)
    """
    digits = load_digits()
    images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)[:, None]
    images = F.resize(images, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return images.expand(-1, channels, -1, -1).contiguous(), torch.from_numpy(digits.target).to(torch.int64)
