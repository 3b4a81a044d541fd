"""Images with labels, wherever they come from: class folders, the built-in digits, timm's dataset factory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import functional as F

from fcmae.core.distributed import from_rank_zero
from fcmae.core.errors import UserError
from fcmae.data.classes import ClassFolders, find_classes, split_by_class
from fcmae.data.config import DIGITS
from fcmae.data.dataset import ArraySource, FolderSource, ImageSource
from fcmae.data.decode import PILLOW_MODES, BrokenImage
from fcmae.data.digits import load_digits_images
from fcmae.data.names import TIMM, full_name


@dataclass(frozen=True)
class Labelled:
    """Images with labels.

    Args:
        source: the images
        labels: int64 (number of images,)
        classes: names of the classes
    """

    source: ImageSource
    labels: Tensor
    classes: list[str]

    def select(self, numbers: np.ndarray) -> "Labelled":
        """Some of the images."""
        return Labelled(
            _Selection(self.source, numbers), self.labels[torch.from_numpy(numbers)], self.classes
        )


def from_folders(
    data: ClassFolders, channels: int, value_range: tuple[float, float] | None = None
) -> Labelled:
    """The images of class folders, of which one at least can be read.

    Raises:
        UserError: none of those tried can be read
    """
    source = FolderSource(data.index, channels, value_range)
    source.check()
    return Labelled(source, torch.from_numpy(data.labels), data.classes)


def split_digits(size: int, channels: int, val_fraction: float, seed: int) -> tuple[Labelled, Labelled]:
    """The built-in digits for training and validation, see `load_digits_images` and `split_by_class`."""
    images, labels = load_digits_images(size, channels)
    digits = Labelled(ArraySource(images, "digit"), labels, [str(i) for i in range(10)])
    kept, taken = split_by_class(labels.numpy(), val_fraction, seed)
    return digits.select(kept), digits.select(taken)


def from_timm(name: str, root: str | None, split: str, channels: int) -> Labelled:
    """A data set by the name that timm's dataset factory knows, such as torch/cifar10 or hfds/org/name.

    Rank zero opens, and where needed downloads, it before the others do.

    Args:
        name: timm's name, with its prefix
        root: folder that the data set lies in, or is downloaded to
        split: train or validation; test stands in for a validation split that the data set does not have
        channels: 1, 3 or 4

    Raises:
        UserError: timm does not know the name, cannot read it, or reads it as a stream without an order
    """
    if channels not in PILLOW_MODES:
        raise UserError(f"data set {name} is read as images of 1, 3 or 4 channels, not {channels}")
    opened: list[Any] = []
    from_rank_zero(lambda: opened.append(_open_timm(name, root, split, download=name.startswith("torch/"))))
    dataset = opened[0] if opened else _open_timm(name, root, split, download=False)
    labels = _labels_of(dataset, name)
    return Labelled(_PillowSource(dataset, f"{name} {split}", channels), labels, _classes_of(dataset, labels))


def open_splits(
    data: str,
    channels: int,
    size: int,
    *,
    data_root: str,
    val_fraction: float,
    seed: int,
    value_range: tuple[float, float] | None = None,
) -> tuple[Labelled, Labelled]:
    """Training and validation images by the name or folder of their data.

    Args:
        data: folder of classes, or one with train/ and val/; digits; cifar10, cifar100 or timm:NAME
        channels: of the images
        size: side of the digits in pixels; images of a folder keep their own
        data_root: where a data set given by name lies
        val_fraction, seed: of the split of data that is in one piece
        value_range: values of 16-bit and float images of a folder that become 0 and 255

    Raises:
        UserError: the data cannot be read
    """
    data = full_name(data)
    if data == DIGITS:
        return split_digits(size, channels, val_fraction, seed)
    if data.startswith(TIMM):
        name = data.removeprefix(TIMM)
        train, val = (from_timm(name, data_root, split, channels) for split in ("train", "validation"))
        _check_apart(train.source, val.source, name, data_root)
        if train.classes != val.classes:
            raise UserError(f"data set {name}: training and validation have different classes")
        return train, val
    train, val = (
        from_folders(each, channels, value_range) for each in find_classes(data, val_fraction, seed)
    )
    return train, val


def _open_timm(name: str, root: str | None, split: str, *, download: bool) -> Any:
    """A data set of timm's, which gives (Pillow image, label) by number."""
    from timm.data import create_dataset  # slow to import, and few runs need it

    try:
        dataset = create_dataset(name, root=root, split=split, download=download)
    except Exception as error:  # each of the libraries behind timm has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        if split == "validation" and "unknown split" in reason.lower():
            return _open_timm(name, root, "test", download=download)
        raise UserError(f"data set {name} ({split}) cannot be read from {root}: {reason}") from error
    if isinstance(dataset, IterableDataset):
        raise UserError(f"data set {name} is a stream: choose one that timm reads by number")
    return dataset


def _labels_of(dataset: Any, name: str) -> Tensor:
    """The labels as the data set, or timm's reader below it, lists them; else those of every sample."""
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


def _classes_of(dataset: Any, labels: Tensor) -> list[str]:
    """The classes' names where the data set, or timm's reader below it, has some; else their numbers."""
    if getattr(dataset, "classes", None):
        return [str(name) for name in dataset.classes]
    reader = getattr(dataset, "reader", None)
    numbers = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if numbers:
        return [str(name) for name in sorted(numbers, key=numbers.get)]
    return [str(i) for i in range(int(labels.max()) + 1)]


def _check_apart(train: ImageSource, val: ImageSource, name: str, root: str) -> None:
    """Refuse to measure on images that are trained on: without folders of the splits, timm takes them all."""
    shared = {train.name(i) for i in range(len(train))} & {val.name(i) for i in range(len(val))}
    if shared:
        raise UserError(
            f"data set {name}: {len(shared)} of the {len(val)} validation images in {root} are training "
            "images too: put the two into train/ and validation/, or give the folder of classes as --data, "
            "which splits it"
        )


class _PillowSource:
    """The images of a data set of (Pillow image, label), which may be timm's own, with a reader below it."""

    def __init__(self, dataset: Any, label: str, channels: int) -> None:
        self.dataset, self.label, self.mode = dataset, label, PILLOW_MODES[channels]
        self.reader: Any = getattr(dataset, "reader", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, i: int) -> str:
        if hasattr(self.reader, "samples"):
            return str(self.reader.filename(i, absolute=True))
        if hasattr(self.dataset, "samples"):
            return str(self.dataset.samples[i][0])
        return f"{self.label} {i}"

    def read(self, i: int) -> Tensor:
        try:  # timm's own data sets give the next image, with that one's label, in place of a broken one
            image = self.dataset[i][0] if self.reader is None else Image.open(self.reader[i][0])
            pixels: Tensor = F.pil_to_tensor(image.convert(self.mode))
            return pixels
        except (OSError, ValueError) as error:
            raise BrokenImage(Path(self.name(i)), str(error)) from error


class _Selection:
    """Some of a source's images, by their numbers."""

    def __init__(self, source: ImageSource, numbers: np.ndarray) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, i: int) -> str:
        return self.source.name(int(self.numbers[i]))

    def read(self, i: int) -> Tensor:
        return self.source.read(int(self.numbers[i]))
