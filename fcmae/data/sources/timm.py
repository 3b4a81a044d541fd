"""Data by the name that timm's dataset factory knows: torchvision's data sets, Hugging Face's and others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcmae.core.distributed import from_rank_zero
from fcmae.core.errors import UserError
from fcmae.data.sources.base import Opener, SourceOptions

if TYPE_CHECKING:
    from torch import Tensor

    from fcmae.data.images import ImageSource, Labelled

PREFIX = "timm:"
ALIASES = {"cifar10": "timm:torch/cifar10", "cifar100": "timm:torch/cifar100"}


class TimmOpener(Opener):
    """A data set such as timm:torch/cifar10 or timm:hfds/org/name, with its own splits."""

    def __init__(self, spec: str) -> None:
        super().__init__(ALIASES.get(spec, spec))

    @classmethod
    def matches(cls, spec: str) -> bool:
        return spec in ALIASES or spec.startswith(PREFIX)

    @property
    def name(self) -> str:
        return self.spec.rpartition("/")[2]

    @property
    def timm_name(self) -> str:
        """The name as timm knows it."""
        return self.spec.removeprefix(PREFIX)

    def open_images(self, options: SourceOptions) -> "PillowSource":
        return self.open_split("train", options)

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        train, val = (self.open_labelled(split, options) for split in ("train", "validation"))
        _check_apart(train.source, val.source, self.timm_name, options.root)
        if train.classes != val.classes:
            raise UserError(f"data set {self.timm_name}: training and validation have different classes")
        return train, val

    def open_validation(self, options: SourceOptions) -> "Labelled":
        return self.open_labelled("validation", options)

    def open_labelled(self, split: str, options: SourceOptions) -> "Labelled":
        """Open one split with its labels.

        Args:
            split, options: see `open_split`

        Raises:
            UserError: it cannot be opened, or has no labels that are numbers
        """
        from fcmae.data.images import Labelled

        source = self.open_split(split, options)
        labels = _labels_of(source.dataset, self.timm_name)
        return Labelled(source, labels, _classes_of(source.dataset, labels))

    def open_split(self, split: str, options: SourceOptions) -> "PillowSource":
        """Open one split; rank zero opens, and where needed downloads, it before the others do.

        Args:
            split: train or validation; test stands in for a validation split that the data set does not have
            options: channels may be 1, 3 or 4

        Raises:
            UserError: timm does not know the name, cannot read it, or reads it as a stream without an order
        """
        from fcmae.data.pictures import PILLOW_MODES

        name, channels, root = self.timm_name, options.channels, options.root
        if channels not in PILLOW_MODES:
            raise UserError(f"data set {name} is read as images of 1, 3 or 4 channels, not {channels}")
        opened: list[Any] = []
        from_rank_zero(lambda: opened.append(_create(name, root, split, download=name.startswith("torch/"))))
        dataset = opened[0] if opened else _create(name, root, split, download=False)
        return PillowSource(dataset, f"{name} {split}", PILLOW_MODES[channels])


class PillowSource:
    """The images of a data set of (Pillow image, label), which may be timm's own, with a reader below it.

    Args:
        dataset: gives an image and its label by number
        label: what the data set is called; image 7 is then "<label> 7", where it has no file
        mode: Pillow's name of the channels to read, such as RGB
    """

    def __init__(self, dataset: Any, label: str, mode: str) -> None:
        self.dataset, self.label, self.mode = dataset, label, mode
        self.reader: Any = getattr(dataset, "reader", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, i: int) -> str:
        """Return the path of image i, or else its number."""
        if hasattr(self.reader, "samples"):
            return str(self.reader.filename(i, absolute=True))
        if hasattr(self.dataset, "samples"):
            return str(self.dataset.samples[i][0])
        return f"{self.label} {i}"

    def read(self, i: int) -> "Tensor":
        """Read image i as uint8 (C, H, W); raise BrokenImage where that cannot be."""
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        from fcmae.data.decode import BrokenImage

        try:  # timm's own data sets give the next image, with that one's label, in place of a broken one
            image = self.dataset[i][0] if self.reader is None else Image.open(self.reader[i][0])
            pixels: Tensor = pil_to_tensor(image.convert(self.mode))
            return pixels
        except (OSError, ValueError) as error:
            raise BrokenImage(Path(self.name(i)), str(error)) from error


def _create(name: str, root: str, split: str, *, download: bool) -> Any:
    """Return a data set of timm's, which gives (Pillow image, label) by number."""
    from timm.data import create_dataset  # slow to import, and few runs need it
    from torch.utils.data import IterableDataset

    try:
        dataset = create_dataset(name, root=root, split=split, download=download)
    except Exception as error:  # each of the libraries behind timm has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        if split == "validation" and "unknown split" in reason.lower():
            return _create(name, root, "test", download=download)
        raise UserError(f"data set {name} ({split}) cannot be read from {root}: {reason}") from error
    if isinstance(dataset, IterableDataset):
        raise UserError(f"data set {name} is a stream: choose one that timm reads by number")
    return dataset


def _labels_of(dataset: Any, name: str) -> "Tensor":
    """Return the labels as the data set, or timm's reader, lists them; else those of every sample."""
    import torch

    lister = getattr(dataset, "reader", dataset)
    try:
        if hasattr(lister, "targets"):
            targets = lister.targets
        elif hasattr(lister, "samples"):  # of (file, label)
            targets = [label for _, label in lister.samples]
        elif hasattr(lister, "label_key"):  # a column of a table of Hugging Face's
            targets = list(lister.dataset[lister.label_key])
        else:
            targets = [dataset[i][1] for i in range(len(dataset))]
        return torch.as_tensor(targets, dtype=torch.int64)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data set {name} has no labels that are numbers ({error}): choose another"
        ) from error


def _classes_of(dataset: Any, labels: "Tensor") -> list[str]:
    """Return the classes' names where the data set, or timm's reader, has some; else their numbers."""
    if getattr(dataset, "classes", None):
        return [str(name) for name in dataset.classes]
    reader = getattr(dataset, "reader", None)
    numbers = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if numbers:
        return [str(name) for name in sorted(numbers, key=numbers.get)]
    return [str(i) for i in range(int(labels.max()) + 1)]


def _check_apart(train: "ImageSource", val: "ImageSource", name: str, root: str) -> None:
    """Refuse to measure on images that are trained on: without folders of the splits, timm takes them all."""
    shared = {train.name(i) for i in range(len(train))} & {val.name(i) for i in range(len(val))}
    if shared:
        raise UserError(
            f"data set {name}: {len(shared)} of the {len(val)} validation images in {root} are training "
            "images too: put the two into train/ and validation/, or give the folder of classes as --data, "
            "which splits it"
        )
