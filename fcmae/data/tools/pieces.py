"""All images of a source in the pieces that it has, each read once: for packing, inspecting and verifying."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from fcmae.core.errors import UserError
from fcmae.data.dataset import Item
from fcmae.data.decode import BrokenImage
from fcmae.data.evaluation import NO_IMAGE
from fcmae.data.images import ImageSource, Labelled, WatchedSource
from fcmae.data.index import ImageIndex
from fcmae.data.loader import Loader
from fcmae.data.sources import SourceOptions, Spec, find_opener
from fcmae.data.sources.base import Opener
from fcmae.data.sources.files import FilesOpener, open_files

TRAIN, VAL, ALL = "train", "val", "images"
BATCH = 4  # large files wait in twice as many batches as there are workers

Look = Callable[[ImageSource, int], tuple[str, bytes]]
"""From a source and the number of an image to a text and bytes that tell of it; may raise BrokenImage."""


@dataclass(frozen=True)
class Piece:
    """Images that belong together.

    Args:
        name: train or val, or images where there is one piece only
        source: the images
        labels: int64 (N,), numbers of the classes, if there are any
        index: their list, where they are files or lie in archives
    """

    name: str
    source: ImageSource
    labels: np.ndarray | None
    index: ImageIndex | None = None


@dataclass(frozen=True)
class Pieces:
    """A source, whole.

    Args:
        pieces: those to train on first
        classes: their names, empty without labels
        unlabelled: why there are no labels, or nothing
    """

    pieces: list[Piece]
    classes: list[str]
    unlabelled: str = ""


def open_pieces(spec: Spec, options: SourceOptions) -> Pieces:
    """Open all images that --data names, with their labels where they have some.

    Data in one piece stay in one; those that are divided, or that a name such as digits divides, come as
    train and val.

    Raises:
        UserError: there are no images, or none that can be read
    """
    opener = find_opener(spec)
    return _open_files(opener, options) if isinstance(opener, FilesOpener) else _open_named(opener, options)


def _open_files(opener: FilesOpener, options: SourceOptions) -> Pieces:
    """Open lists of files."""
    try:
        train, val = opener.list_halves()
    except UserError as error:
        index = opener.list_files(held_out=True)
        return Pieces([Piece(ALL, open_files(index, options), None, index)], [], str(error))
    if val is None:
        return Pieces(
            [Piece(ALL, open_files(train.index, options), train.labels, train.index)], train.classes
        )
    classes = [*train.classes, *(name for name in val.classes if name not in {*train.classes})]
    pieces = [
        Piece(name, open_files(half.index, options), half.renumber(classes).labels, half.index)
        for name, half in ((TRAIN, train), (VAL, val))
    ]
    return Pieces(pieces, classes)


def _open_named(opener: Opener, options: SourceOptions) -> Pieces:
    """Open data that are known by name."""
    try:
        halves: tuple[Labelled, Labelled] = opener.open_splits(options)
    except UserError as error:
        return Pieces([Piece(ALL, opener.open_everything(options), None)], [], str(error))
    names = (TRAIN, VAL)
    pieces = [Piece(name, half.source, half.labels.numpy()) for name, half in zip(names, halves, strict=True)]
    return Pieces(pieces, halves[0].classes)


def bytes_of(source: ImageSource, i: int) -> bytes | None:
    """Return the bytes that image i is decoded from; nothing where it does not come from any.

    Raises:
        BrokenImage: they cannot be read
    """
    while isinstance(source, WatchedSource):
        source = source.source
    read = getattr(source, "read_bytes", None)
    try:
        data: bytes | None = None if read is None else read(i)
    except (OSError, ValueError) as error:
        raise BrokenImage(Path(source.name(i)), str(error)) from error
    return data


@dataclass(frozen=True)
class Seen:
    """What was seen of one image.

    Args:
        number: of the image
        text, data: what the look returned
        reason: why it is broken, or nothing
    """

    number: int
    text: str
    data: bytes
    reason: str


def look_at_each(source: ImageSource, numbers: np.ndarray, look: Look, workers: int) -> Iterator[Seen]:
    """Yield what a look gives of each image, in order, read ahead by worker processes.

    Args:
        source: the images
        numbers: int64 (N,), which of them
        look: can be pickled, for processes that are spawned
        workers: processes; 0 looks in this one
    """
    dataset = _Looks(source, look)
    batches = (numbers[at : at + BATCH].tolist() for at in range(0, len(numbers), BATCH))
    at = 0
    for batch in Loader(dataset, batches, workers, torch.device("cpu")):
        broken = dict(batch.broken)
        for text, data in zip(*batch.data, strict=True):
            number = int(numbers[at])
            at += 1
            yield Seen(number, text, data, broken.get(number, ""))


class _Looks(Dataset[Item]):
    """What a look gives, by number."""

    def __init__(self, source: ImageSource, look: Look) -> None:
        self.source, self.look = WatchedSource(source), look

    def __getitem__(self, i: int) -> Item:
        try:
            return Item(self.look(self.source, i), i, [])
        except BrokenImage as error:
            return Item(("", b""), NO_IMAGE, [(i, error.reason)])
