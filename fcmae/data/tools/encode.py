"""Images to the bytes of files: those that they came from, or smaller ones.

Shapes: C channels, H W pixels.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fcmae.data.images import ImageSource, read_shrunk
from fcmae.data.suffixes import SUFFIXES, TIFF_STARTS
from fcmae.data.tools.pieces import bytes_of
from fcmae.data.transforms import BICUBIC

DIVISORS = (8, 4, 2)  # of a JPEG's sides, as it is decoded
JPEG_SIDE = 65_500  # pixels at which libjpeg ends
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "AVIF": ".avif"}


@dataclass(frozen=True)
class Encoder:
    """How images are packed: a look, see `look_at_each`, that returns suffix and bytes.

    Args:
        short_side: pixels that the short side of larger images is resized to, by default that of the file
        quality: of JPEG, 1 to 100
        format: of images that are resized, or that come from no file
    """

    short_side: int | None
    quality: int
    format: Literal["jpeg", "png"]

    def __call__(self, source: ImageSource, i: int) -> tuple[str, bytes]:
        """Return suffix and bytes of image i, which decodes: those of its file where that is small enough.

        Raises:
            BrokenImage: it cannot be read
        """
        image = read_shrunk(source, i, self.shrink)
        height, width = image.shape[1:]
        small = self.short_side is None or min(height, width) <= self.short_side
        data = bytes_of(source, i) if small else None
        if data is not None:
            return _suffix_of(source.name(i), data), data
        if self.short_side is not None and not small:
            scale = self.short_side / min(height, width)
            size = [max(1, round(height * scale)), max(1, round(width * scale))]
            image = F.resize(image, size, interpolation=BICUBIC, antialias=True)
        return self.encode(image)

    def shrink(self, height: int, width: int) -> int:
        """Return what the sides may be divided by while a JPEG is decoded: twice what is wanted stays."""
        if self.short_side is None:
            return 1
        return next(
            (divisor for divisor in DIVISORS if min(height, width) >= 2 * divisor * self.short_side), 1
        )

    def encode(self, image: Tensor) -> tuple[str, bytes]:
        """Return suffix and bytes of uint8 (C, H, W), of an array where C is none of 1, 3 and 4."""
        pixels, file = image.permute(1, 2, 0).contiguous().numpy(), io.BytesIO()
        if pixels.shape[2] not in (1, 3, 4):
            np.save(file, pixels)
            return ".npy", file.getvalue()
        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        if self.format == "png" or pixels.shape[2] == 4 or max(picture.size) > JPEG_SIDE:
            picture.save(file, "PNG")
            return ".png", file.getvalue()
        picture.save(file, "JPEG", quality=self.quality)
        return ".jpg", file.getvalue()


def _suffix_of(name: str, data: bytes) -> str:
    """Return what a file is to end in so that every reader knows it: by its bytes, or else by its name."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return _SUFFIXES.get(picture.format or "", _suffix_in(name))
    except Exception:  # a TIFF that Pillow does not know, or an array
        return ".tif" if data.startswith(TIFF_STARTS) else _suffix_in(name)


def _suffix_in(name: str) -> str:
    """Return the suffix of a name that says how to read it."""
    return max(filter(name.lower().endswith, SUFFIXES), key=len, default=".jpg")
