"""A look at the first bytes of a few images of a list: whether they are images at all."""

import io

from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex
from fcmae.data.parts import read_part, read_start
from fcmae.data.suffixes import TIFF_STARTS, find_format, pillow_formats


def check_headers(index: ImageIndex, tries: int = 32) -> None:
    """Open images from all over a list until one looks like an image; nothing is decoded.

    Args:
        index: the list
        tries: number of images to open at most

    Raises:
        UserError: none of those tried does
    """
    numbers = index.spread(tries)
    if any(_has_header(index, number) for number in numbers):
        return
    raise UserError(
        f"no readable image among the {len(numbers)} tried of {len(index)} in {index.root}, "
        f"{index[numbers[0]]} for example: are they images?"
    )


def _has_header(index: ImageIndex, number: int) -> bool:
    """Tell whether an image begins as one does. Pillow knows no TIFF of 12 channels; tifffile does."""
    path = index.path(number)
    known = find_format(path)
    try:
        start = read_start(index, number, max(4, len(known.magic)))
        if known.read is not None:
            return bool(start) and start.startswith(known.magic)
        if start not in TIFF_STARTS:
            content = read_part(index, number)
            Image.open(path if content is None else io.BytesIO(content), formats=pillow_formats()).close()
        return True
    except Exception:  # damaged files make decoders raise nearly anything
        return False
