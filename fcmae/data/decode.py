"""Image files to uint8 tensors, whatever their format, depth and colour mode.

Shapes: C channels, H W pixels.
"""

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fcmae.data.pictures import IN_CHANS, Picture, Shrink, read_picture
from fcmae.data.suffixes import MAX_PIXELS, find_format
from fcmae.data.validity import MASK, THERE, NoData, find_data

ValueRange = tuple[float, float]

_GIVE_RANGE = (
    "train with --images.value-range '[LOW, HIGH]', the values of black and white, and with --images.no-data "
    "where a value means none"
)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # grey from red, green, blue: ITU-R BT.601, as Pillow's
_OF_DAMAGE = (  # what decoders stumble over, where they have no words for it
    *(ArithmeticError, AttributeError, EOFError, LookupError, SyntaxError, TypeError),
    *(struct.error, zlib.error),
)


class BrokenImage(Exception):
    """A file that cannot be read as an image of the wanted kind; `reason` says why in one line."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


class UnmappedValues(ValueError):
    """Values that nothing maps to 0..255, as long as no setting says how."""


def read_image(
    path: str | Path,
    channels: int,
    *,
    value_range: ValueRange | None = None,
    no_data: NoData | None = None,
    max_pixels: int = MAX_PIXELS,
    content: bytes | None = None,
    shrink: Shrink | None = None,
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
        no_data: which stored values are none: this number; nan, all that is not finite (which goes for a
            number, too); or mask, where the file's last channel, a TIFF's last sample or transparency, is 0
        max_pixels: images of more pixels are refused before they are decoded
        content: the bytes, where the path is only what they are called, as in an archive
        shrink: from height and width to 1, 2, 4 or 8, what the sides of a JPEG may be divided by; by default
            all pixels are decoded

    Returns:
        uint8 (C, H, W), in memory often channels last, divided sides rounded up; with `no_data` (2 C, H, W),
        see `fcmae.data.validity`

    Raises:
        BrokenImage: the file is missing, damaged, too large, without any data, or has the wrong number of
            channels
    """
    path = Path(path)
    wanted = channels if no_data != MASK else 4 if channels in (1, 3) else channels + 1
    try:
        return to_image(_read(path, wanted, max_pixels, content, shrink), channels, value_range, no_data)
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise BrokenImage(path, _reason(error)) from error


def read_array(
    path: Path, channels: int, max_pixels: int = MAX_PIXELS, content: bytes | None = None
) -> np.ndarray:
    """Read one image file as `read_image` does, but at its own depth and perhaps of other channels.

    Returns:
        (H, W) or (H, W, C)

    Raises:
        Exception: whatever the decoder of a damaged file raises
    """
    return _read(path, channels, max_pixels, content).array


def _read(
    path: Path, channels: int, max_pixels: int, content: bytes | None = None, shrink: Shrink | None = None
) -> Picture:
    """Read a file, or bytes that are called so, as its suffix says, or else as a picture."""
    read = find_format(path).read
    if read is None:
        return read_picture(path, channels, max_pixels, content, shrink)
    if content is None:
        return Picture(read(path, channels, max_pixels))
    with tempfile.NamedTemporaryFile(suffix=path.suffix) as file:  # what reads arrays takes files
        file.write(content)
        file.flush()
        return Picture(read(Path(file.name), channels, max_pixels))


def _reason(error: Exception) -> str:
    """Say in one line, and in words for people, why a file cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return f"needs more memory than there is ({text})"
    if isinstance(error, _OF_DAMAGE):
        return f"damaged ({text})"
    return text


def to_image(
    picture: Picture, channels: int, value_range: ValueRange | None = None, no_data: NoData | None = None
) -> Tensor:
    """Take the wanted channels of a picture, scale them to uint8 and turn them to (C, H, W) or (2 C, H, W).

    Args:
        picture: stored values; with no_data mask, its last channel is the mask
        channels, value_range, no_data: see `read_image`

    Raises:
        ValueError: the picture has other channels, values that nothing maps to 0..255, or no data at all
    """
    array, has_alpha, mask = picture.array, picture.alpha, None
    if array.ndim == 2:
        array = array[:, :, None]
    if no_data == MASK:
        array, has_alpha, mask = array[:, :, :-1], False, array[:, :, -1:] != 0
    if channels in (1, 3) and picture.colour:
        array = array[:, :, :3]
    elif channels in (1, 3) and has_alpha:
        array = array[:, :, :-1]
    to_grey = channels == 1 and picture.colour and array.shape[2] == 3
    if not to_grey:
        _check_channels(array, channels)
    there = None
    if no_data is not None:
        there = find_data(array, no_data) if mask is None else np.broadcast_to(mask, array.shape)
        array = _fill_gaps(array, there)
    if array.dtype != np.uint8 or to_grey or picture.white_is_zero:
        scaled = _scale(array, value_range)
        if to_grey:
            scaled = (scaled @ _LUMA)[:, :, None]
        array = np.rint(255 - scaled if picture.white_is_zero else scaled).astype(np.uint8)
    values = _to_planes(array, channels)
    if there is None:
        return values
    if to_grey:
        there = np.all(there, axis=2, keepdims=True)
    gaps = _to_planes(~there, channels)
    return torch.cat([values.masked_fill(gaps, 0), torch.where(gaps, 0, THERE).to(torch.uint8)])


def _to_planes(array: np.ndarray, channels: int) -> Tensor:
    """Turn (H, W, C) or (H, W, 1) to (C, H, W)."""
    if not array.flags.writeable or min(array.strides) < 0:
        array = array.copy()
    return torch.from_numpy(array).permute(2, 0, 1).expand(channels, -1, -1)


def _fill_gaps(array: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Put a value that is there wherever none is, so that no garbage is looked at.

    Raises:
        ValueError: there is none at all
    """
    if there.all():
        return array
    data = array[there]
    if not data.size:
        raise ValueError("holds no data, by what --images.no-data says")
    filled: np.ndarray = np.where(there, array, data[0])
    return filled


def _check_channels(array: np.ndarray, channels: int) -> None:
    """Refuse an array (H, W, C) of other channels than those wanted, or a single one that can be repeated."""
    if array.shape[2] == channels or (array.shape[2] == 1 and channels == 3):
        return
    if array.shape[0] < min(array.shape[1:]):
        raise ValueError(f"has shape {array.shape}: channels come last, (H, W, C)")
    raise ValueError(f"has {array.shape[2]} channels, but {channels} are wanted, as {IN_CHANS}")


def _scale(array: np.ndarray, value_range: ValueRange | None) -> np.ndarray:
    """Map `value_range`, or the full range of 16-bit values or 0..1 of floats, linearly to float32 0..255.

    Raises:
        UnmappedValues: others than these
    """
    if array.dtype == np.uint8:
        return array.astype(np.float32)
    if array.dtype.kind == "b":
        return array.astype(np.float32) * 255
    if value_range is None and array.dtype.kind == "f":
        value_range = (0.0, 1.0)
        if array.min() < 0 or array.max() > 1:
            raise UnmappedValues(
                f"has values {array.min():g} to {array.max():g}, beyond 0 to 1: {_GIVE_RANGE}"
            )
    elif value_range is None and array.dtype == np.dtype(np.uint16).newbyteorder(array.dtype.byteorder):
        value_range = (0.0, 65535.0)
    elif value_range is None:
        raise UnmappedValues(
            f"has values {array.min()} to {array.max()} of type {array.dtype}: {_GIVE_RANGE}"
        )
    low, high = value_range
    with np.errstate(all="ignore"):  # what is not finite is told below
        scaled = (array.astype(np.float32) - low) * (255 / (high - low))
    if not np.isfinite(scaled).all():
        raise UnmappedValues("has values that are not finite: where they mean no data, --images.no-data nan")
    clipped: np.ndarray = scaled.clip(0, 255)
    return clipped
