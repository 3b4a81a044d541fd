"""A look at the pixels of a few images before a run: whether they can be read, and use their range."""

import io
import logging
from contextlib import suppress

from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex
from fcmae.data.parts import read_part, read_start
from fcmae.data.suffixes import TIFF_STARTS, find_format

logger = logging.getLogger(__name__)
TRIES = 8
USED = 0.25  # fraction of the range of 16-bit values below which an image would lose what it shows
CAMERA_BITS = (8, 10, 12, 14)
GDAL_NO_DATA = 42113  # the tag of a TIFF
_PNG = b"\x89PNG\r\n\x1a\n"


def check_pixels(
    index: ImageIndex,
    channels: int,
    value_range: tuple[float, float] | None,
    no_data: float | str | None = None,
) -> None:
    """Refuse images of another number of channels, or whose values would become a few shades of 256.

    Where all of a few images are of 8 bits, nothing is decoded and torch is not imported.

    Args:
        index: the images, of which a few from all over the list are looked at
        channels: of the images, as the run reads them
        value_range: values that become black and white, by default the whole range of 16 bits
        no_data: values that are none, see `fcmae.data.config.ImagesConfig`

    Raises:
        UserError: no image can be read so, one has values that need a setting, or those of 16 bits use less
            than a quarter of their range
    """
    numbers = index.spread(TRIES)
    deep = [number for number in numbers if _may_be_deep(index, number)]
    if not deep and channels in (1, 3) and no_data is None:
        return
    from fcmae.data.decode import BrokenImage, UnmappedValues, read_array
    from fcmae.data.images import FolderSource

    if no_data is None:
        _tell_no_data(index, deep)
    source = FolderSource(index, channels, value_range, no_data)
    for number in deep:  # a setting is missing, and many files would be given up
        try:
            source.read(number)
        except BrokenImage as error:
            if isinstance(error.__cause__, UnmappedValues):
                raise UserError(str(error)) from None
    source.check()
    if value_range is not None:
        return
    limits: list[int] = []
    for number in deep:
        with suppress(Exception):  # damaged files make decoders raise nearly anything
            array = read_array(index.path(number), channels, content=read_part(index, number))
            if array.dtype.kind == "u" and array.dtype.itemsize == 2:
                data = array if no_data in (None, "mask") else array[array != no_data]
                limits += int(data.min()), int(data.max())
    if limits and max(limits) - min(limits) < USED * 65536:
        black, white = _suggested(min(limits), max(limits))
        raise UserError(
            f"{index.root}: the 16-bit values reach only from {min(limits)} to {max(limits)} of 65535, which "
            f"would leave a few shades of grey: give --images.value-range '[{black}, {white}]' "
            "(or '[0, 65535]', to keep them as they are)"
        )


def _tell_no_data(index: ImageIndex, numbers: list[int]) -> None:
    """Warn of images that say themselves which value is none: GeoTIFFs, by GDAL's tag."""
    with suppress(Exception):  # damage, or no tifffile
        import tifffile

        for number in numbers:
            part = read_part(index, number)
            with tifffile.TiffFile(index.path(number) if part is None else io.BytesIO(part)) as file:
                value = str(file.pages.first.tags.valueof(GDAL_NO_DATA, "")).strip()
            if value:
                logger.warning(
                    "%s says that %s means no data: give --images.no-data %s, or it is read as a measurement",
                    index[number], value, value,
                )  # fmt: skip
                return


def _may_be_deep(index: ImageIndex, number: int) -> bool:
    """Tell whether an image may hold more than 8 bits a value, by its name and, of a PNG, by its header."""
    if find_format(index.path(number)).may_be_deep:
        return True
    with suppress(OSError, ValueError):
        header = read_start(index, number, 25)
        if header.startswith(TIFF_STARTS):  # whatever its name
            return True
        return header.startswith(_PNG) and header[24:] == b"\x10"
    return False


def _suggested(low: int, high: int) -> tuple[int, int]:
    """Return the range of the camera whose bits the values fit into, or else their own."""
    tops = [2**bits - 1 for bits in CAMERA_BITS if high < 2**bits]
    return (0, tops[0]) if tops else (low, high)
