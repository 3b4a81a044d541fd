"""Crops of JPEGs whose bytes the readers leave as they are, for a GPU to decode a batch at a time.

Shapes: B batch, C channels, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.data.decode import BrokenImage, read_image
from fcmae.data.pictures import read_jpeg_header
from fcmae.data.suffixes import MAX_PIXELS
from fcmae.data.transforms import Crop, RandomCropFlip

Decode = Callable[[list[Tensor], int, torch.device], list[Tensor]]
"""From the bytes of JPEGs, uint8, to uint8 (C, H, W) of each on a device; RuntimeError if any is damaged."""


@dataclass(frozen=True)
class Encoded:
    """Crops that are yet to be taken of images that are yet to be decoded.

    Args:
        contents: uint8, of each image its JPEG file's bytes, or of other files (C, H, W), cropped already
        image_of: which of the images each crop is of
        crops: B of them
        taking: takes a crop of a decoded image
        channels: C
    """

    contents: tuple[Tensor, ...]
    image_of: tuple[int, ...]
    crops: tuple[Crop, ...]
    taking: RandomCropFlip
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each crop."""
        return (self.channels, *self.taking.image_size)

    @staticmethod
    def join(parts: "Sequence[Encoded]") -> "Encoded":
        """Put batches together; an image that follows itself is kept once."""
        contents: list[Tensor] = []
        image_of: list[int] = []
        for part in parts:
            for image in part.image_of:
                if not contents or contents[-1] is not part.contents[image]:
                    contents.append(part.contents[image])
                image_of.append(len(contents) - 1)
        crops = tuple(crop for part in parts for crop in part.crops)
        return replace(parts[0], contents=tuple(contents), image_of=tuple(image_of), crops=crops)

    def pin_memory(self) -> "Encoded":
        """Return the same: decoders take bytes from where they are."""
        return self

    def decode(self, device: torch.device, decode: Decode | None = None) -> tuple[Tensor, dict[int, str]]:
        """Decode the images and take their crops.

        Args:
            device: where
            decode: decodes JPEGs; by default torchvision's decoder of the device

        Returns:
            uint8 (B, C, H, W) on the device, and by crop why its image could not be decoded; the crop of
            another image of the batch stands there

        Raises:
            UserError: none of the images can be decoded
        """
        images = self._decode_all(device, decode or decode_jpegs)
        reasons = {at: image for at, image in enumerate(images) if isinstance(image, str)}
        good = [at for at, image in enumerate(images) if at not in reasons]
        if not good:
            raise UserError(f"none of {len(images)} images of a batch can be decoded ({reasons[0]})")
        rows, broken = [], {}
        for row, (at, crop) in enumerate(zip(self.image_of, self.crops, strict=True)):
            image = images[at]
            if isinstance(image, str):
                broken[row] = image
                image = images[next((each for each in good if each > at), good[0])]
                crop = self.taking.whole(*image.shape[-2:])  # type: ignore[union-attr]
            rows.append(self.taking.apply(image, crop))  # type: ignore[arg-type]
        return torch.stack(rows), broken

    def _decode_all(self, device: torch.device, decode: Decode) -> list[Tensor | str]:
        """Decode all JPEGs at once, or, where one is damaged, each alone as readers do, or say why not."""
        jpegs = [content for content in self.contents if content.ndim == 1]
        decoded: list[Tensor | str]
        try:
            decoded = list(decode(jpegs, self.channels, device)) if jpegs else []
        except RuntimeError:
            decoded = [_decode_alone(content, self.channels, device) for content in jpegs]
        following = iter(decoded)
        return [next(following) if each.ndim == 1 else each.to(device) for each in self.contents]


def _decode_alone(content: Tensor, channels: int, device: torch.device) -> Tensor | str:
    """Decode one JPEG as readers do, or say why that cannot be."""
    try:
        return read_image(Path("image"), channels, content=content.numpy().tobytes()).to(device)
    except BrokenImage as error:
        return error.reason


def decode_jpegs(contents: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
    """Decode JPEGs with torchvision, on a GPU with its own decoder of batches.

    Args:
        contents: uint8, the bytes of each
        channels: 1 or 3
        device: of the results

    Returns:
        uint8 (C, H, W) each

    Raises:
        RuntimeError: one of them is damaged
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    mode = {1: ImageReadMode.GRAY, 3: ImageReadMode.RGB}[channels]
    images: list[Tensor] = decode_jpeg(contents, mode, device=device)
    return images


def ordinary_size(content: bytes) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG that a GPU decodes; None for turned and huge ones, and other files."""
    header = read_jpeg_header(content)
    if header is None or header[1] or header[0][0] * header[0][1] > MAX_PIXELS:
        return None
    width, height = header[0]
    return height, width


def check_gpu_decoding(device: torch.device, channels: int, no_data: object) -> None:
    """Refuse to decode on a GPU where there is none, or what it cannot decode.

    Raises:
        UserError: names the setting and what to choose
    """
    if device.type != "cuda":
        raise UserError(f"images.decode is gpu, but the run's device is {device}: choose scaled or full")
    if channels not in (1, 3) or no_data is not None:
        raise UserError(
            "images.decode is gpu, which reads 1 or 3 channels of pixels that are all data: choose full"
        )
