"""Which files are images, by the ends of their names: the one table of what is read and how.

Shapes: C channels, H W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import features
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

MAX_PIXELS = 178_956_970  # where Pillow, too, refuses an image as a decompression bomb


@dataclass(frozen=True)
class ImageFormat:
    """How files of a suffix are read.

    Args:
        pillow: Pillow's name of the format of a picture, whose plugin has to be imported; libjpeg-turbo and
            tifffile take over where they are faster or know more
        deep: whether a picture may have more than 8 bits a value, or channels that Pillow does not know
        read: reads what is no picture: path, wanted channels and most pixels to (H, W) or (H, W, C), at the
            file's own depth and with the channels that it has; may raise anything
        magic: the first bytes of what is no picture
    """

    pillow: str = ""
    deep: bool = False
    read: Callable[[Path, int, int], np.ndarray] | None = None
    magic: bytes = b""

    @property
    def may_be_deep(self) -> bool:
        """Whether a file may be more than a picture of 8 bits that Pillow reads."""
        return self.deep or self.read is not None


def read_npy(path: Path, channels: int, max_pixels: int) -> np.ndarray:
    """Map a .npy array (H, W) or (H, W, C) into memory, so that a false header allocates nothing.

    Raises:
        ValueError: another shape, or more than `max_pixels` pixels
        OSError: no such file, or a damaged one
    """
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3):
        raise ValueError(f"has shape {array.shape}: (H, W) or (H, W, C) is read")
    check_size((array.shape[1], array.shape[0]), max_pixels)
    return array


def check_size(size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """Refuse an image of too many pixels or of none.

    Args:
        size: (width, height)
        max_pixels: most pixels

    Raises:
        ValueError: it has more, or none
    """
    width, height = size
    if width * height > max_pixels:
        raise ValueError(f"has {width} x {height} pixels, more than the {max_pixels} allowed")
    if width * height == 0:
        raise ValueError(f"has no pixels ({width} x {height})")


TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of both byte orders, and of BigTIFF
JPEG, TIFF = ImageFormat("JPEG"), ImageFormat(TiffImageFile.format, deep=True)
# A line more and files of another suffix are listed, checked and read: SUFFIXES[".gif"] = ImageFormat("GIF").
SUFFIXES: dict[str, ImageFormat] = {
    ".jpg": JPEG,
    ".jpeg": JPEG,
    ".jpe": JPEG,
    ".jfif": JPEG,
    ".pjpeg": JPEG,
    ".pjp": JPEG,
    ".png": ImageFormat("PNG"),
    ".webp": ImageFormat(WebPImageFile.format),
    ".bmp": ImageFormat("BMP"),
    ".tif": TIFF,
    ".tiff": TIFF,
    ".npy": ImageFormat(read=read_npy, magic=b"\x93NUMPY"),
}
if features.check("avif"):
    from PIL.AvifImagePlugin import AvifImageFile

    SUFFIXES[".avif"] = ImageFormat(AvifImageFile.format)
# Images that are not read: of phones and the web, of cameras, of microscopes and scanners.
UNREAD = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".gif", ".svg", ".psd", ".tga", ".ppm", ".pgm", ".exr",
    ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
    ".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".svs", ".ndpi", ".mrxs", ".dcm", ".fits",
)  # fmt: skip
CONVERT = "convert them to JPEG, PNG, TIFF or .npy"


def find_format(path: Path) -> ImageFormat:
    """Return how a file is read: by the longest suffix that fits, or else as a picture of any kind."""
    name = path.name.lower()
    return SUFFIXES[max(filter(name.endswith, SUFFIXES), key=len, default=".jpg")]


def looks_like_picture(start: bytes) -> bool:
    """Tell by its first 12 bytes whether a file, whatever its name, is a picture that is read."""
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", *TIFF_STARTS)):
        return True
    is_webp = start.startswith(b"RIFF") and start[8:] == b"WEBP"
    return is_webp or (start.startswith(b"BM") and start[6:10] == bytes(4))  # BMP's reserved bytes


def pillow_formats() -> tuple[str, ...]:
    """Return what Pillow is asked for: given no list, it takes seconds over its first broken file."""
    return (*dict.fromkeys(known.pillow for known in SUFFIXES.values() if known.pillow), "GIF")
