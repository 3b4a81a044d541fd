"""Which files are images, by the ends of their names: the one table of what is read and how.

Shapes: C channels, H W pixels.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

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
    """Read a .npy array (H, W) or (H, W, C), of whose header nothing is believed.

    Raises:
        ValueError: another shape, more than `max_pixels` pixels, or no array of numbers
        OSError: no such file
        EOFError: it is cut short
    """
    with path.open("rb") as file:
        shape, is_fortran, dtype = read_npy_header(file)
        if len(shape) not in (2, 3):
            raise ValueError(f"has shape {shape}: (H, W) or (H, W, C) is read")
        check_size((shape[1], shape[0]), max_pixels)
        size = math.prod(shape) * dtype.itemsize
        content = file.read(size) if size <= path.stat().st_size else b""
    if len(content) < size:
        raise EOFError(f"cut short: holds fewer than the {size} bytes of its array")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def read_npy_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy array: shape, whether it is in Fortran's order, and type of its values.

    Raises:
        ValueError: it is damaged, or the values are no numbers
    """
    formats = np.lib.format
    is_first = formats.read_magic(file) == (1, 0)
    shape, is_fortran, dtype = (
        formats.read_array_header_1_0(file) if is_first else formats.read_array_header_2_0(file)
    )
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are not read")
    return shape, is_fortran, dtype


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
HEIF, HEIF_SUFFIXES = "HEIF", (".heic", ".heif", ".hif")
if find_spec("pillow_heif"):  # a plugin of Pillow's, imported where pictures are opened
    SUFFIXES |= dict.fromkeys(HEIF_SUFFIXES, ImageFormat(HEIF))
_BRANDS = {b"avif": ".avif", b"heic": ".heic", b"heix": ".heic", b"mif1": ".heic"}  # behind ftyp
# Images that are not read: of phones and the web, of cameras, of microscopes and scanners.
UNREAD = (
    *HEIF_SUFFIXES, ".avif", ".jxl", ".jp2", ".j2k", ".gif", ".svg", ".psd", ".tga", ".ppm", ".pgm", ".exr",
    ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
    ".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".svs", ".ndpi", ".mrxs", ".dcm", ".fits",
)  # fmt: skip


def find_remedy(passed_over: Collection[str]) -> str:
    """Say what has files of these suffixes read, where they are images; nothing where they are none."""
    if not set(passed_over) & set(UNREAD):
        return ""
    remedy = "convert them to JPEG, PNG, TIFF or .npy to have them read"
    return remedy + (", or pip install pillow-heif" if set(passed_over) & set(HEIF_SUFFIXES) else "")


def find_format(path: Path) -> ImageFormat:
    """Return how a file is read: by the longest suffix that fits, or else as a picture of any kind."""
    name = path.name.lower()
    return SUFFIXES[max(filter(name.endswith, SUFFIXES), key=len, default=".jpg")]


def looks_like_picture(start: bytes) -> bool:
    """Tell by its first 12 bytes whether a file, whatever its name, is a picture that is read."""
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", *TIFF_STARTS)):
        return True
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:], "") in SUFFIXES
    is_webp = start.startswith(b"RIFF") and start[8:] == b"WEBP"
    return is_webp or (start.startswith(b"BM") and start[6:10] == bytes(4))  # BMP's reserved bytes


def pillow_formats() -> list[str]:
    """Return what Pillow is asked for: given no list, it takes seconds over its first broken file."""
    names = dict.fromkeys(known.pillow for known in SUFFIXES.values() if known.pillow)
    return [name for name in (*names, "GIF") if name != HEIF or _has_heif()]


@cache
def _has_heif() -> bool:
    """Let Pillow read HEIF by its plugin; tell whether that can be imported."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener(thumbnails=False, decode_threads=1)
    return True
