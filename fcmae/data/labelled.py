"""Images with labels, wherever they come from: class folders, the built-in digits, timm's dataset factory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fcmae.data.classes import ClassFolders, find_classes, split_by_class
from fcmae.data.config import DIGITS
from fcmae.data.dataset import ArraySource, FolderSource, ImageSource
from fcmae.data.decode import BrokenImage
from fcmae.data.digits import load_digits_images
from fcmae.data.names import TIMM, full_name
from fcmae.engine.errors import UserError

PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


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

    Args:
        name: timm's name, with its prefix
        root: folder that the data set lies in, or is downloaded to
        split: train or validation
        channels: 1, 3 or 4

    Raises:
        UserError: timm does not know the name, cannot read it, or reads it as a stream without an order
    """
    from timm.data import create_dataset  # slow to import, and few runs need it

    if channels not in PILLOW_MODES:
        raise UserError(f"data set {name} is read as images of 1, 3 or 4 channels, not {channels}")
    try:
        dataset = create_dataset(name, root=root, split=split, download=name.startswith("torch/"))
        len(dataset)
    except TypeError:
        raise UserError(f"data set {name} is a stream: choose one that timm reads by number") from None
    except Exception as error:  # each of the libraries behind timm has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"data set {name} ({split}) cannot be read from {root}: {reason}") from error
    labels = _labels_of(dataset)
    classes = getattr(dataset, "classes", None) or [str(i) for i in range(int(labels.max()) + 1)]
    return Labelled(_PillowSource(dataset, name, channels), labels, [str(each) for each in classes])


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
        if train.classes != val.classes:
            raise UserError(f"data set {name}: training and validation have different classes")
        return train, val
    train, val = (
        from_folders(each, channels, value_range) for each in find_classes(data, val_fraction, seed)
    )
    return train, val


def _labels_of(dataset: Any) -> Tensor:
    """The labels of a torchvision data set, else those of every single sample."""
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [dataset[i][1] for i in range(len(dataset))]
    return torch.as_tensor(targets, dtype=torch.int64)


class _PillowSource:
    """The images of a data set of (Pillow image, label)."""

    def __init__(self, dataset: Any, label: str, channels: int) -> None:
        self.dataset, self.label, self.mode = dataset, label, PILLOW_MODES[channels]

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, i: int) -> str:
        return f"{self.label} {i}"

    def read(self, i: int) -> Tensor:
        try:
            image: Tensor = F.pil_to_tensor(self.dataset[i][0].convert(self.mode))
            return image
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
