"""What a kind of data is: an opener that knows what a name stands for, lists it and opens it.

Only what opens may import torch: what can be wrong before that is told within a second.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fcmae.core.errors import UserError
from fcmae.data.config import DATA_ROOT, VAL_FRACTION
from fcmae.data.index import ImageIndex, describe_lists

if TYPE_CHECKING:
    from fcmae.data.images import ImageSource, Labelled

Spec = list[str] | str | Path
"""What --data says: a name, or several; in code also a path."""


@dataclass(frozen=True)
class SourceOptions:
    """How data is to be opened; each kind takes of it what concerns it.

    Args:
        channels: of the images, as the network takes them
        size: side in pixels, for images that are made to size; those of files keep theirs
        value_range: values of 16-bit and float files that become 0 and 255, by default their full range
        root: folder that data sets known by name lie in, or are downloaded to
        val_fraction: fraction of each class that is kept for validation, where the data is in one piece
        seed: of that split
        lists: the lists of files that the run keeps, as `list_images` or `list_splits` gave them
        no_data: stored values of files that are none: a number, nan or mask, see `read_image`
    """

    channels: int
    size: int
    value_range: tuple[float, float] | None = None
    root: str = DATA_ROOT
    val_fraction: float = VAL_FRACTION
    seed: int = 0
    lists: Sequence[ImageIndex] = ()
    no_data: float | str | None = None


class Opener(ABC):
    """One kind of data, bound to what the user named.

    A kind that is opened by name alone needs `matches` and `open_images`, and `open_splits` if it has labels.

    Args:
        spec: what --data says
    """

    recipe: ClassVar[str | None] = None  # the built-in recipe made for this kind of data

    def __init__(self, spec: str) -> None:
        self.spec = spec

    @classmethod
    @abstractmethod
    def matches(cls, spec: str) -> bool:
        """Tell whether a name, as --data says it, is of this kind."""

    @property
    def setting(self) -> list[str] | str:
        """What --data says to open the same again, without short names."""
        return self.spec

    @property
    def name(self) -> str:
        """What a run on this data is called."""
        return self.spec.replace(":", "-").replace("/", "-")

    def check(self) -> None:
        """Refuse data of which something can be told before they are opened.

        Raises:
            UserError: there are no images
        """
        self.list_images()

    def list_images(self) -> list[ImageIndex]:
        """List all images, for a run to keep, so that it sees the same ones when it is resumed.

        Returns:
            one list of files, or nothing where the name alone says which images there are

        Raises:
            UserError: there are none, or they are no images
        """
        return []

    def list_splits(self, val_fraction: float, seed: int) -> list[ImageIndex]:
        """List training and validation images, likewise.

        Args:
            val_fraction, seed: see `SourceOptions`

        Returns:
            two lists of files, or nothing

        Raises:
            UserError: there are none, or no classes that can be trained on and measured
        """
        return []

    def counts(self, lists: Sequence[ImageIndex]) -> list[int]:
        """Count the images, as far as it is known before they are opened; those to train on come first.

        Args:
            lists: of this data
        """
        return [len(index) for index in lists]

    def describe(self, lists: Sequence[ImageIndex]) -> dict[str, int | str]:
        """Return what tells the data from others, wherever they lie: how many images, and a digest.

        Args:
            lists: those that the run keeps
        """
        return describe_lists(list(lists))

    def val_classes(self) -> list[str]:
        """List the classes of the images to measure on; none where only opening tells.

        Raises:
            UserError: they are no labelled images
        """
        return []

    def is_same(self, other: "Opener", lists: Sequence[ImageIndex]) -> bool:
        """Tell whether a run on this data may measure on its validation images only, asked for other data.

        Args:
            other: the data to measure on
            lists: those that the run keeps
        """
        return self.spec == other.spec

    @abstractmethod
    def open_images(self, options: SourceOptions) -> "ImageSource":
        """Open all images to train on without labels.

        Raises:
            UserError: they cannot be read
        """

    def open_everything(self, options: SourceOptions) -> "ImageSource":
        """Open all images there are, those that are kept for measuring among them.

        Raises:
            UserError: they cannot be read
        """
        return self.open_images(options)

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        """Open training and validation images.

        Raises:
            UserError: they cannot be read, or have no labels
        """
        raise UserError(f"{self.spec} has no labels: give images that have")

    def open_validation(self, options: SourceOptions) -> "Labelled":
        """Open the images to measure weights on that were trained elsewhere.

        Raises:
            UserError: see `open_splits`
        """
        return self.open_splits(options)[1]
