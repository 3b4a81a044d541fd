"""Image files to uint8 tensors, whatever their format, depth and colour mode.

Shapes: C channels, H W pixels. The readers below return arrays (H, W) or (H, W, C) of the file's own depth.
"""

import io
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from fcmae.data.suffixes import MAX_PIXELS, TIFF, check_size, find_format, pillow_formats

ValueRange = tuple[float, float]

_TORCHVISION_MODES = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB, 4: ImageReadMode.RGB_ALPHA}
PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's modes of more than 8 bits, all grey
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_JPEG_SEGMENTS = (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)  # what may come before: tables, metadata
_IN_CHANS = "--network.in-chans says in training"
_GIVE_RANGE = "train with --images.value-range '[LOW, HIGH]', the values of black and white"
_ORIENTATION, _BITS_PER_SAMPLE = 0x0112, 0x0102  # tags of EXIF and TIFF


class BrokenImage(Exception):
    """A file that cannot be read as an image of the wanted kind; `reason` says why in one line."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def read_image(
    path: str | Path, channels: int, *, value_range: ValueRange | None = None, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Read one image file, upright by its EXIF orientation.

    3 channels are RGB and 1 is grey, made from any colour mode; 4 are RGBA, for files with transparency.
    Other numbers have to be the file's own: a .npy array (H, W, C), a TIFF of as many samples or of as many
    grey pages (of other TIFFs the first page is read). 16-bit images are scaled from their full range, floats
    from 0..1.

    Args:
        path: a file of one of `SUFFIXES`; which kind of picture it is, is told by its content
        channels: number of channels of the result
        value_range: values of 16-bit, integer and float images that become 0 and 255, others are clipped; by
            default the full range of 16 bits, and 0..1 of floats
        max_pixels: images of more pixels are refused before they are decoded

    Returns:
        uint8 (C, H, W), in memory often channels last

    Raises:
        BrokenImage: the file is missing, damaged, too large, or has the wrong number of channels
    """
    path = Path(path)
    try:
        return _to_tensor(read_array(path, channels, max_pixels), channels, value_range)
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise BrokenImage(path, " ".join(str(error).split()) or type(error).__name__) from error


def read_array(path: Path, channels: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read one image file as `read_image` does, but at its own depth and perhaps of other channels.

    Returns:
        (H, W) or (H, W, C)

    Raises:
        Exception: whatever the decoder of a damaged file raises
    """
    return (find_format(path).read or _read_picture)(path, channels, max_pixels)


def _read_picture(path: Path, channels: int, max_pixels: int) -> np.ndarray:
    """Read with torchvision where it gives what is asked, otherwise with Pillow or tifffile."""
    data = np.fromfile(path, np.uint8)  # torchvision takes no name that is not UTF-8
    jpeg_size = _jpeg_size(data.data)
    if jpeg_size is not None and channels in (1, 3):
        check_size(jpeg_size, max_pixels)
        with suppress(RuntimeError):  # Pillow says better what is wrong
            return _read_with_torchvision(data, channels)
    try:
        image: Image.Image = Image.open(io.BytesIO(data.data), formats=pillow_formats())  # only the header
    except Image.UnidentifiedImageError:
        if find_format(path).pillow == TIFF.pillow:
            return _read_with_tifffile(path, max_pixels)
        raise ValueError("not an image, or damaged in its first bytes") from None
    check_size(image.size, max_pixels)
    if _is_deep_colour_tiff(image):
        return _read_with_tifffile(path, max_pixels)
    if _suits_torchvision(image, channels):
        with suppress(RuntimeError):  # Pillow can read more, an animated WebP for example
            return _read_with_torchvision(data, channels)
    return _read_with_pillow(image, channels, max_pixels)


def _jpeg_size(data: memoryview) -> tuple[int, int] | None:
    """Find (width, height) in a JPEG's frame header; None for other files, and after what no camera writes.

    Pillow's header takes a tenth of the time of the whole pipeline from a photograph to a crop.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if data[at + 1] not in _JPEG_SEGMENTS:
            return None
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _read_with_torchvision(data: np.ndarray, channels: int) -> np.ndarray:
    """Decode a file's bytes to (H, W, C)."""
    mode = _TORCHVISION_MODES[channels]
    image: Tensor = decode_image(torch.from_numpy(data), mode, apply_exif_orientation=True)
    return image.permute(1, 2, 0).numpy()


def _suits_torchvision(image: Image.Image, channels: int) -> bool:
    """Tell whether torchvision's decoder gives what Pillow gives; it is faster, but knows less."""
    if channels == 4:
        return image.mode == "RGBA" and image.format == "PNG"  # elsewhere it makes an alpha channel up
    if image.format == "WEBP":  # of these it can make no grey, and takes no notice of EXIF
        return channels == 3 and image.getexif().get(_ORIENTATION, 1) == 1
    return channels in _TORCHVISION_MODES and image.format == "PNG"


def _is_deep_colour_tiff(image: Image.Image) -> bool:
    """Tell whether this is a TIFF of several samples of more than 8 bits, which Pillow would cut to 8."""
    if image.format != "TIFF" or len(image.getbands()) == 1:
        return False
    bits: int = max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,)))  # type: ignore[attr-defined]
    return bits > 8


def _read_with_pillow(image: Image.Image, channels: int, max_pixels: int) -> np.ndarray:
    """Read an opened picture upright: grey pages of a TIFF as channels, or the first page in their mode."""
    if channels > 1 and image.format == "TIFF" and image.mode != "P" and len(image.getbands()) == 1:
        pages = getattr(image, "n_frames", 1)
        if pages == channels:
            return np.stack([_read_page(image, page, max_pixels) for page in range(pages)], axis=-1)
    image = ImageOps.exif_transpose(image)
    if channels == 4 and not _has_transparency(image):
        raise ValueError(
            f"has no transparency (mode {image.mode}), but 4 channels (RGBA) are wanted, as {_IN_CHANS}"
        )
    if channels in PILLOW_MODES and image.mode not in _DEEP_MODES:
        image = image.convert(PILLOW_MODES[channels])
    return np.asarray(image)


def _read_page(image: Image.Image, page: int, max_pixels: int) -> np.ndarray:
    """Read one page (H, W)."""
    image.seek(page)
    check_size(image.size, max_pixels)
    return np.asarray(image)


def _has_transparency(image: Image.Image) -> bool:
    """Tell whether a picture has an alpha channel or a transparent colour."""
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _read_with_tifffile(path: Path, max_pixels: int) -> np.ndarray:
    """Read a TIFF's first series (H, W) or (H, W, C)."""
    try:
        import tifffile
    except ImportError:
        raise ValueError("this kind of TIFF needs tifffile: pip install tifffile") from None
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        sides = series.axes.index("Y"), series.axes.index("X")
        check_size((series.shape[sides[1]], series.shape[sides[0]]), max_pixels)
        if series.ndim > 3:
            raise ValueError(f"has axes {series.axes} of {series.shape}, only one besides Y and X is read")
        return np.moveaxis(series.asarray(), sides, (0, 1))


def _to_tensor(array: np.ndarray, channels: int, value_range: ValueRange | None) -> Tensor:
    """Check the channels of an array (H, W) or (H, W, C), scale it to uint8 and turn it to (C, H, W)."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] not in (channels, 1) or (array.shape[2] == 1 and channels not in (1, 3)):
        if array.shape[0] < min(array.shape[1:]):
            raise ValueError(f"has shape {array.shape}: channels come last, (H, W, C)")
        raise ValueError(f"has {array.shape[2]} channels, but {channels} are wanted, as {_IN_CHANS}")
    if array.dtype != np.uint8:
        array = _to_uint8(array, value_range)
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array).permute(2, 0, 1).expand(channels, -1, -1)


def _to_uint8(array: np.ndarray, value_range: ValueRange | None) -> np.ndarray:
    """Map `value_range`, or the full range of 16-bit values or 0..1 of floats, linearly to 0..255."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * 255
    if value_range is None and array.dtype.kind == "f":
        value_range = (0.0, 1.0)
        if array.min() < 0 or array.max() > 1:
            raise ValueError(f"has values {array.min():g} to {array.max():g}, beyond 0 to 1: {_GIVE_RANGE}")
    elif value_range is None and array.dtype == np.dtype(np.uint16).newbyteorder(array.dtype.byteorder):
        value_range = (0.0, 65535.0)
    elif value_range is None:
        raise ValueError(f"has values {array.min()} to {array.max()} of type {array.dtype}: {_GIVE_RANGE}")
    low, high = value_range
    scaled = (array.astype(np.float32) - low) * (255 / (high - low))
    if not np.isfinite(scaled).all():
        raise ValueError("has values that are not finite")
    pixels: np.ndarray = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return pixels
