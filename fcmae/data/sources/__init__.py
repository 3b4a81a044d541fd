"""Which data --data means: the registry of openers, one for each kind of data.

A new kind is a file with a class, and its name in the list here; or a class anywhere, and a call of
`register_opener`.
"""

from typing import TYPE_CHECKING

from fcmae.data.sources.base import Opener, SourceOptions
from fcmae.data.sources.digits import DigitsOpener
from fcmae.data.sources.folder import FolderOpener
from fcmae.data.sources.timm import TimmOpener

__all__ = [
    "OPENERS",
    "Opener",
    "SourceOptions",
    "find_opener",
    "open_source",
    "open_splits",
    "register_opener",
]

if TYPE_CHECKING:
    from fcmae.data.images import ImageSource, Labelled

OPENERS: list[type[Opener]] = [DigitsOpener, TimmOpener, FolderOpener]  # the first that matches is taken


def register_opener(kind: type[Opener]) -> None:
    """Let --data mean one more kind of data, which is asked before those that are known already."""
    OPENERS.insert(0, kind)


def find_opener(spec: str) -> Opener:
    """Return the opener of what --data names; nothing is looked at yet."""
    return next(kind for kind in OPENERS if kind.matches(spec))(spec)


def open_source(spec: str, options: SourceOptions) -> "ImageSource":
    """Open all images of what --data names, see `Opener.open_images`."""
    return find_opener(spec).open_images(options)


def open_splits(spec: str, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
    """Open the training and validation images of what --data names, see `Opener.open_splits`."""
    return find_opener(spec).open_splits(options)
