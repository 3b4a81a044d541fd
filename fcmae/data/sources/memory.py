"""Images in memory, or behind a data set of PyTorch's: what code hands over and no path names."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener, SourceOptions

if TYPE_CHECKING:
    from torch import Tensor

    from fcmae.data.images import ImageSource, Labelled

PREFIX = "memory:"
_held: dict[str, Any] = {}  # what names stand for, while a training needs them


@contextmanager
def held(data: Any) -> Iterator[Any]:
    """Let a name stand for data within a block; what is a name or a path already stays as it is.

    Args:
        data: what --data takes; or uint8 images (N, C, H, W), a tensor or an array; or a pair of them and int
            labels (N,); or a data set of PyTorch's, by number, of images or of (image, label), where an image
            is Pillow's or a uint8 tensor (C, H, W)

    Yields:
        the name, which is that of the content where it is in memory: a run goes on with the same images only

    Raises:
        UserError: nothing of these
    """
    if all(isinstance(each, str | Path) for each in (data if isinstance(data, list) else [data])):
        yield data
        return
    name = PREFIX + _describe(data)
    _held[name] = data
    try:
        yield name
    finally:
        del _held[name]


class MemoryOpener(Opener):
    """What `held` gave a name."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return spec.startswith(PREFIX)

    @property
    def data(self) -> Any:
        """What the name stands for.

        Raises:
            UserError: the run was started from code, and is gone on with from elsewhere
        """
        if self.spec not in _held:
            raise UserError(f"{self.spec} was handed over by code: go on with the run from there")
        return _held[self.spec]

    def counts(self, lists: Sequence[ImageIndex]) -> list[int]:
        return [len(_images(self.data))]

    def open_images(self, options: SourceOptions) -> "ImageSource":
        return _open(_images(self.data), options.channels)

    def open_splits(self, options: SourceOptions) -> tuple["Labelled", "Labelled"]:
        import torch

        from fcmae.data.images import Labelled

        data = self.data
        if isinstance(data, tuple):
            labels = torch.as_tensor(data[1]).to(torch.int64)
        else:
            targets = getattr(data, "targets", None)
            found = [item[1] for item in data] if targets is None else targets
            labels = torch.as_tensor(found).to(torch.int64)
        known = getattr(data, "classes", None)
        classes = list(known) if known else [str(i) for i in range(int(labels.max()) + 1)]
        source = _open(_images(data), options.channels)
        return Labelled(source, labels, classes).split(options.val_fraction, options.seed)


class DatasetSource:
    """The images of a data set of PyTorch's.

    Args:
        dataset: of images, or of tuples that an image is the first of
        channels: C
    """

    def __init__(self, dataset: Any, channels: int) -> None:
        self.dataset, self.channels = dataset, channels

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, i: int) -> str:
        """Return the class of the data set and the number."""
        return f"{type(self.dataset).__name__} {i}"

    def read(self, i: int) -> "Tensor":
        """Read image i as uint8 (C, H, W).

        Raises:
            UserError: it is no image, or has other channels
        """
        import torch
        from PIL import Image
        from torchvision.transforms.v2.functional import pil_to_tensor

        image = self.dataset[i]
        image = image[0] if isinstance(image, tuple | list) else image
        if isinstance(image, Image.Image):
            modes = {1: "L", 3: "RGB"}
            image = pil_to_tensor(image.convert(modes[self.channels]) if self.channels in modes else image)
        if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8 or len(image) != self.channels:
            raise UserError(
                f"{self.name(i)} is no image of Pillow's and no uint8 tensor ({self.channels}, H, W): leave "
                "the transform of the data set out, for the run augments, or set network.in_chans"
            )
        return image


def _images(data: Any) -> Any:
    """Return the images of data with labels or without."""
    return data[0] if isinstance(data, tuple) else data


def _describe(data: Any) -> str:
    """Return a name for data that are the same.

    Raises:
        UserError: they are no images
    """
    import numpy as np

    given = data if isinstance(data, tuple) else (data,)
    parts = [np.asarray(part) for part in given if hasattr(part, "shape")]
    if not parts:
        if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise UserError(
                f"data is a {type(data).__name__}: give a path, images (N, C, H, W) or a data set"
            )
        return f"{type(data).__name__}-{len(data)}"
    if parts[0].dtype != np.uint8 or parts[0].ndim != 4:
        raise UserError(f"data is {parts[0].dtype} {parts[0].shape}: give uint8 images (N, C, H, W)")
    digest = hashlib.blake2b(digest_size=4)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return f"{len(parts[0])}-images-{digest.hexdigest()}"


def _open(images: Any, channels: int) -> "ImageSource":
    """Return the source of images of so many channels.

    Raises:
        UserError: they have others
    """
    import torch

    from fcmae.data.images import ArraySource

    if not hasattr(images, "shape"):
        return DatasetSource(images, channels)
    images = torch.as_tensor(images)
    if images.shape[1] != channels:
        raise UserError(
            f"the images have {images.shape[1]} channels, network.in_chans is {channels}: set it so"
        )
    return ArraySource(images)
