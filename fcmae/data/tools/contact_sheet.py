"""A sheet of small pictures that shows at a glance what a source holds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torchvision.transforms.v2 import functional as F

from fcmae.data.decode import BrokenImage
from fcmae.data.images import ImageSource
from fcmae.data.tools.pieces import Piece, Pieces
from fcmae.data.transforms import BICUBIC
from fcmae.data.validity import split_validity

COLUMNS, ROWS = 8, 5
SIDE = 160  # pixels of the longer side of a picture
LONGEST = 22  # characters of a caption
RED = "#c53030"


def draw_contact_sheet(pieces: Pieces, channels: int) -> Figure:
    """Draw images from all over a source, at first one of each class, with class and size below each.

    An image of other channels than 1 and 3 shows its first, and white where it has no data; one that cannot
    be read is told by its reason.

    Args:
        pieces: the source
        channels: of the images
    """
    piece = pieces.pieces[0]
    numbers = choose(piece, COLUMNS * ROWS)
    rows = -(-len(numbers) // COLUMNS)
    figure = Figure(figsize=(1.55 * COLUMNS, 1.8 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{len(numbers)} of {len(piece.source)} images", fontsize=11)
    for axes, number in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, numbers, strict=False):
        label = "" if piece.labels is None else pieces.classes[int(piece.labels[number])]
        _draw(axes, piece.source, int(number), label, channels)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def choose(piece: Piece, count: int) -> np.ndarray:
    """Return the numbers of at most `count` images: of as many classes as there are, or evenly spread."""
    if len(piece.source) <= count:
        return np.arange(len(piece.source))
    order = np.arange(len(piece.source)) if piece.labels is None else np.argsort(piece.labels, kind="stable")
    return order[np.linspace(0, len(order) - 1, count, dtype=np.int64)]


def _draw(axes: Axes, source: ImageSource, number: int, label: str, channels: int) -> None:
    """Draw one image with its caption."""
    try:
        image = source.read(number)
    except BrokenImage as error:
        what = _cut(label or source.name(number).rpartition("/")[2])
        axes.text(
            0.5, 0.5, _cut(error.reason), color=RED, ha="center", va="center", fontsize=7, parse_math=False
        )
        axes.set_title(what, fontsize=7, color=RED, parse_math=False)
        return
    height, width = image.shape[1:]
    image, there = split_validity(image, channels)
    if there is not None:
        image = image.masked_fill(~there, 255)
    scale = SIDE / max(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    small = F.resize(image[:3] if len(image) >= 3 else image[:1], size, interpolation=BICUBIC, antialias=True)
    axes.imshow(small.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"{_cut(label)}\n{width} x {height}".strip(), fontsize=7, parse_math=False)


def _cut(text: str) -> str:
    """Return the beginning of a text that is too long for a caption."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
