"""Pictures as they lie in files: decoded at their own depth, upright, with what is known of their channels.

JPEG is decoded by libjpeg-turbo straight to an array, which Pillow, built on the same library, takes twice
the time for; TIFF of several deep samples by tifffile; everything else by Pillow, which survives damage.

Shapes: C channels, H W pixels.
"""

import io
import logging
import math
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from fcmae.data.suffixes import MAX_PIXELS, TIFF_STARTS, check_size, pillow_formats

PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
IN_CHANS = "--network.in-chans says in training"
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's modes of more than 8 bits, all grey
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_JPEG_SEGMENTS = (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)  # what may come before: tables, metadata
_DEEP_PNG = ("RGB;16B", "RGBA;16B")  # Pillow's names of 16 bits a colour, upper byte first
_DEEP_GREY_PNG = "LA;16B"  # with transparency
_EXIF = 0xE1  # the JPEG segment that EXIF and XMP lie in
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106  # tags of EXIF and TIFF
_SAMPLES, _EXTRA_SAMPLES = 0x0115, 0x0152
_ORIENTATION_MARKS = (b"\x01\x12", b"\x12\x01", b"Orientation")  # in EXIF of both byte orders, and in XMP
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = range(3)  # of TIFF's photometric interpretations
_ALPHA = (1, 2)  # of the meanings that TIFF gives an extra sample
_MUTE = threading.Lock()  # two that mute at once would leave the stream mute

Shrink = Callable[[int, int], int]
"""From the height and width of an image, upright, to what its sides may be divided by: 1, 2, 4 or 8."""
JpegDecoder = Callable[[bytes, int, int], np.ndarray]


@dataclass(frozen=True)
class Picture:
    """The stored values of an image, upright.

    Args:
        array: (H, W) or (H, W, C)
        colour: whether its first three channels are red, green and blue
        alpha: whether its last channel is transparency
        white_is_zero: whether the stored values grow from white to black
    """

    array: np.ndarray
    colour: bool = False
    alpha: bool = False
    white_is_zero: bool = False


def read_picture(
    path: Path,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    content: bytes | None = None,
    shrink: Shrink | None = None,
) -> Picture:
    """Decode a file, of whatever kind its bytes are.

    Args:
        path: the file
        channels: that are wanted; 8-bit pictures are converted to 1 (grey), 3 (RGB) or 4 (RGBA)
        max_pixels: images of more pixels are refused before they are decoded
        content: the bytes, where the path is only what they are called
        shrink: says how much smaller a JPEG may be decoded; by default none is

    Raises:
        Exception: whatever the decoder of a damaged file raises
    """
    with path.open("rb", buffering=0) if content is None else io.BytesIO(content) as file:
        if file.read(4) in TIFF_STARTS:  # may be larger than memory
            with _muted():
                return _read_tiff(file, channels, max_pixels)
        file.seek(0)
        data = content or file.read()
    if channels in (1, 3):
        picture = _read_jpeg(data, channels, max_pixels, shrink)
        if picture is not None:
            return picture
    with _muted():
        image = _open(stream := io.BytesIO(data))
        check_size(image.size, max_pixels)
        coding = image.tile[0][3] if image.format == "PNG" else ""  # type: ignore[attr-defined]
        if coding == _DEEP_GREY_PNG:
            return _read_deep_grey_png(data, image, channels)
        if coding in _DEEP_PNG:
            return _read_deep_png(stream, image)
        return _read_with_pillow(image, channels)


@contextmanager
def _muted() -> Iterator[None]:
    """Keep warnings, and what libjpeg and libtiff print, off the standard error stream: they name no file."""
    with _MUTE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kept = os.dup(2)
        except OSError:  # a process without that stream
            yield
            return
        os.dup2(_open_nowhere(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@cache
def _open_nowhere() -> int:
    """Open the null device, once a process and those that it forks."""
    return os.open(os.devnull, os.O_WRONLY)


def _open(file: BinaryIO) -> Image.Image:
    """Read a picture's header with Pillow; a file object, and no path, which Pillow would map into memory."""
    try:
        file.seek(0)
        return Image.open(file, formats=pillow_formats())
    except Image.UnidentifiedImageError:
        raise ValueError("not an image, or damaged in its first bytes") from None


def _read_jpeg(data: bytes, channels: int, max_pixels: int, shrink: Shrink | None = None) -> Picture | None:
    """Decode a JPEG of ordinary headers, grey or in colour; None for all else, damaged ones among it."""
    header = read_jpeg_header(data)
    if header is None:
        return None
    (width, height), turned = header
    check_size((width, height), max_pixels)
    orientation = 1
    if turned:
        with _muted():
            orientation = _orientation(_open(io.BytesIO(data)))
    divisor = 1
    if shrink is not None:
        divisor = shrink(*((width, height) if orientation > 4 else (height, width)))
    if orientation > 1 and (height % divisor or width % divisor):
        divisor = 1  # an odd pixel would come first, and shift all others
    try:
        array = _find_jpeg_decoder()(data, channels, divisor)
    except (OSError, ValueError):  # Pillow, asked for all pixels, says better what is wrong
        return None
    return Picture(_upright(array, orientation))


@cache
def _find_jpeg_decoder() -> JpegDecoder:
    """Return a decoder of bytes to (H, W, C), for C channels and at sides divided by 1, 2, 4 or 8.

    It is simplejpeg's, or Pillow's where there is none for this machine: all pixels are the same.
    """
    try:
        from simplejpeg import decode_jpeg, decode_jpeg_header
    except ImportError:
        return _decode_jpeg_with_pillow
    spaces = {1: "GRAY", 3: "RGB"}

    def decode(data: bytes, channels: int, divisor: int) -> np.ndarray:
        least = {}
        if divisor > 1:
            height, width = decode_jpeg_header(data)[:2]
            least = {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
        pixels: np.ndarray = decode_jpeg(data, spaces[channels], **least)
        return pixels

    return decode


def _decode_jpeg_with_pillow(data: bytes, channels: int, divisor: int) -> np.ndarray:
    """Decode a JPEG as simplejpeg does, more slowly."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        image.draft(PILLOW_MODES[channels], (image.width // divisor, image.height // divisor))
        return np.asarray(image.convert(PILLOW_MODES[channels]))


def read_jpeg_header(data: bytes) -> tuple[tuple[int, int], bool] | None:
    """Find (width, height) in a JPEG's frame header, and whether an orientation may be noted before it.

    Pillow's header takes a tenth of the time of the whole pipeline from a photograph to a crop.

    Returns:
        nothing for other files, after what no camera writes, and for four colours, which decoders disagree on
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, turned = 2, False
    while at + 10 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return ((width, height), turned) if data[at + 9] in (1, 3) else None
        if data[at + 1] not in _JPEG_SEGMENTS:
            return None
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] == _EXIF:
            segment = data[at:end]
            turned |= any(mark in segment for mark in _ORIENTATION_MARKS)
        at = end
    return None


def _orientation(image: Image.Image) -> int:
    """Return 1 to 8 as EXIF, or else XMP, says; 1 where neither does, or is damaged."""
    with suppress(Exception):  # the picture may be whole all the same
        value = image.getexif().get(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror (H, W, ...) as EXIF's orientations 1 to 8 ask for."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _read_with_pillow(image: Image.Image, channels: int) -> Picture:
    """Read an opened picture, converted to the wanted channels where it has 8 bits."""
    image.load()
    if channels == 4 and not _has_transparency(image):
        raise ValueError(
            f"has no transparency (mode {image.mode}), but 4 channels (RGBA) are wanted, as {IN_CHANS}"
        )
    orientation = _orientation(image)  # that of a TIFF has been seen to by loading it
    if channels in PILLOW_MODES and image.mode not in (*_DEEP_MODES, PILLOW_MODES[channels]):
        image = image.convert(PILLOW_MODES[channels])
    return Picture(_upright(np.asarray(image), orientation), colour=image.mode in ("RGB", "RGBA"))


def _has_transparency(image: Image.Image) -> bool:
    """Tell whether a picture has an alpha channel or a transparent colour."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _read_deep_png(file: BinaryIO, image: Image.Image) -> Picture:
    """Read a PNG of 16 bits a colour, which Pillow would cut to 8 (H, W, C).

    It unpacks the upper byte of each value, or the lower one if values are said to lie the other way round:
    decoded twice, it gives both.
    """
    upper, lower = image, _open(file)
    lower.tile = [(*tile[:3], tile[3].replace("16B", "16L")) for tile in lower.tile]  # type: ignore[attr-defined]
    array = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    return Picture(_upright(array, _orientation(upper)), colour=True, alpha=upper.mode == "RGBA")


def _read_deep_grey_png(data: bytes, image: Image.Image, channels: int) -> Picture:
    """Read a PNG of grey and transparency of 16 bits, which Pillow would cut to 8: (H, W, 2), or RGBA for 4.

    It is byte for byte a PNG of four colours of 8 bits, but for its header, which is made to say so.
    """
    header = data[12:24] + b"\x08\x06" + data[26:29]  # bits, and kind of colour
    named = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    array = np.asarray(_open(io.BytesIO(named))).view(">u2")
    if channels == 4:
        array = array[:, :, [0, 0, 0, 1]]
    return Picture(_upright(array, _orientation(image)), colour=channels == 4, alpha=True)


def _read_tiff(file: BinaryIO, channels: int, max_pixels: int) -> Picture:
    """Read a TIFF: its first page, or its samples or grey pages as channels."""
    picture = _read_tiff_with_pillow(file, channels, max_pixels)
    return picture or _read_with_tifffile(file, channels, max_pixels)


def _read_tiff_with_pillow(file: BinaryIO, channels: int, max_pixels: int) -> Picture | None:
    """Read a TIFF; None where Pillow does not know its kind, or would lose some of it."""
    try:
        image = _open(file)
    except ValueError:  # one of 12 samples, for example
        return None
    check_size(image.size, max_pixels)
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_PHOTOMETRIC) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and _is_beyond_pillow(tags, channels):
        return None
    is_grey = image.mode != "P" and len(image.getbands()) == 1
    if channels > 1 and is_grey and getattr(image, "n_frames", 1) == channels:
        pages = [_read_page(image, page, max_pixels) for page in range(channels)]
        picture = Picture(np.stack(pages, axis=-1))
    else:
        picture = _read_with_pillow(image, channels)
    is_deep = image.mode in _DEEP_MODES  # Pillow itself turns white of 8 bits to 255
    return replace(picture, white_is_zero=is_deep and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _is_beyond_pillow(tags: Any, channels: int) -> bool:
    """Tell whether Pillow would cut a TIFF's samples to 8 bits, or drop some that are wanted."""
    samples = tags.get(_SAMPLES, 1)
    if samples == 1:
        return False
    has_bands = samples == channels > 3 and tags.get(_EXTRA_SAMPLES, _ALPHA)[0] not in _ALPHA
    return has_bands or max(tags.get(_BITS_PER_SAMPLE, (8,))) > 8


def _read_page(image: Image.Image, page: int, max_pixels: int) -> np.ndarray:
    """Read one page (H, W)."""
    image.seek(page)
    check_size(image.size, max_pixels)
    return np.asarray(image)


def _read_with_tifffile(file: BinaryIO, channels: int, max_pixels: int) -> Picture:
    """Read a TIFF's first series (H, W) or (H, W, C)."""
    try:
        import tifffile
    except ImportError:
        raise ValueError("this kind of TIFF needs tifffile: pip install tifffile") from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it reports what it then raises
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        page, sides = series.keyframe, (series.axes.index("Y"), series.axes.index("X"))
        check_size((series.shape[sides[1]], series.shape[sides[0]]), max_pixels)
        if series.ndim > 3:
            raise ValueError(f"has axes {series.axes} of {series.shape}, only one besides Y and X is read")
        check_size((math.prod(series.shape), 1), max_pixels * max(channels, 4))
        parts = math.prod(page.chunked)
        if len(page.dataoffsets) < parts:  # it would go through millions that are not there
            raise ValueError(f"damaged: holds {len(page.dataoffsets)} of its {parts} strips or tiles")
        array = np.moveaxis(series.asarray(), sides, (0, 1))
        return Picture(
            _upright(array, int(page.tags.valueof(_ORIENTATION, 1))),
            colour=page.photometric == _RGB and "S" in series.axes,
            alpha="S" in series.axes and page.extrasamples[-1:] in ((1,), (2,)),
            white_is_zero=page.photometric == _WHITE_IS_ZERO,
        )
