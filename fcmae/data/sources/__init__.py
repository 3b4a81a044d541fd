"""Which data --data means: the registry of openers, one for each kind of data.

A new kind is a file with a class, and its name in the list here; or a class anywhere, and a call of
`register_opener`.
"""

from typing import TYPE_CHECKING

from fcmae.data.sources.base import Opener, SourceOptions, Spec
from fcmae.data.sources.digits import DigitsOpener
from fcmae.data.sources.folder import FolderOpener
from fcmae.data.sources.huggingface import HuggingFaceOpener
from fcmae.data.sources.listing import ListOpener
from fcmae.data.sources.memory import MemoryOpener
from fcmae.data.sources.several import SeveralOpener
from fcmae.data.sources.table import TableOpener
from fcmae.data.sources.tar import TarOpener
from fcmae.data.sources.tiles import TilesOpener
from fcmae.data.sources.timm import TimmOpener
from fcmae.data.sources.unread import UnreadOpener

__all__ = [
    "OPENERS",
    "Opener",
    "SourceOptions",
    "Spec",
    "find_opener",
    "open_source",
    "open_splits",
    "register_opener",
]

if TYPE_CHECKING:
    from fcmae.data.images import ImageSource, Labelled

OPENERS: list[type[Opener]] = [  # the first that matches is taken
    DigitsOpener, MemoryOpener, TimmOpener, UnreadOpener, TilesOpener, TarOpener, ListOpener,
    HuggingFaceOpener, TableOpener, FolderOpener,
]  # fmt: skip


def register_opener(kind: type[Opener]) -> None:
    """Let --data mean one more kind of data, which is asked before those that are known already."""
    OPENERS.insert(0, kind)


def find_opener(spec: Spec) -> Opener:
    """Return the opener of what --data names; nothing is looked at yet."""
    if isinstance(spec, list):
        openers = [find_opener(each) for each in spec]
        return SeveralOpener(openers) if len(openers) > 1 else openers[0]
    name = str(spec)
    return next(kind for kind in OPENERS if kind.matches(name))(name)


def open_source(spec: Spec, options: SourceOptions) -> "ImageSource":
    """Open all images of what --data names, see `Opener.open_images`."""
    return find_opener(spec).open_images(options)


def open_splits(spec: Spec, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
    """Open the training and validation images of what --data names, see `Opener.open_splits`."""
    return find_opener(spec).open_splits(options)
