"""Augmentation of uint8 images and their conversion to normalised floats.

Shapes: B batch, C channels, H W pixels. Any number of channels; sizes are (height, width).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fcmae.core.errors import UserError
from fcmae.data.config import CROP_PCT, STRAIGHT_FROM, ImagesConfig
from fcmae.data.validity import resize_data, split_validity

Size = tuple[int, int]
Transform = Callable[[Tensor], Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RATIO = (3 / 4, 4 / 3)  # width to height of a random crop
LOG_RATIO = torch.tensor(RATIO).log().tolist()
ATTEMPTS = 10  # to draw a crop that fits into the image
THIN = 8  # times the crop's side: of images longer than that, once resized, only the centre is resized
DIVISORS = (1, 2, 4, 8)  # of the sizes at which a JPEG is decoded from its coarser frequencies alone
GAP = (
    3.0  # times too large a crop stays where it is decoded smaller: a fifth of a level of 255 from all pixels
)
BICUBIC = InterpolationMode.BICUBIC


@dataclass(frozen=True)
class Crop:
    """What a random crop takes of an image.

    Args:
        turns: how often the image is turned by 90 degrees before it is cropped
        box: (top, left, height, width), in pixels of the whole image, turned
        hflip: whether to mirror left to right
        vflip: whether to mirror top to bottom
        divisor: 1, 2, 4 or 8: the image may be decoded at this fraction of its size, whose pixels the box's
            sides then fall between
    """

    turns: int
    box: tuple[int, int, int, int]
    hflip: bool
    vflip: bool
    divisor: int = 1


@dataclass(frozen=True)
class RandomCropFlip:
    """The pre-training augmentation of ConvNeXt V2 (arXiv 2301.00808): a random resized crop and flips.

    It is a function from uint8 (C, H, W) to uint8 (C, *image_size) that draws from torch's global generator,
    in two steps: what is drawn may be known before an image is decoded. It can be pickled, as all transforms
    here, for workers that are spawned.

    Args:
        image_size: (height, width) of the result
        scale: smallest and largest fraction of the area that is cropped
        hflip: mirror left to right with probability 1/2
        vflip: mirror top to bottom with probability 1/2
        turns: turn by 0, 90, 180 or 270 degrees, each with probability 1/4
        channels: C, where images may say which of their values are there, see `fcmae.data.validity`
        shrinks: whether images of which a crop is much larger than `image_size` may be decoded smaller; then
            the crop begins and ends on whole pixels of the smaller image
    """

    image_size: Size
    scale: tuple[float, float] = (0.2, 1.0)
    hflip: bool = True
    vflip: bool = False
    turns: bool = False
    channels: int | None = None
    shrinks: bool = False

    def __call__(self, image: Tensor) -> Tensor:
        """Draw a crop of an image and take it."""
        return self.apply(image, self.draw(*image.shape[-2:]))

    def draw(self, height: int, width: int) -> Crop:
        """Draw a crop of an image of this height and width."""
        turns = int(torch.randint(4, ())) if self.turns else 0
        box = _draw_box(*((width, height) if turns % 2 else (height, width)), self.scale)
        hflip = self.hflip and bool(torch.rand(()) < 0.5)
        vflip = self.vflip and bool(torch.rand(()) < 0.5)
        divisor = self.most_shrinkage(box[2], box[3])
        if turns and (height % divisor or width % divisor):
            divisor = 1  # a pixel that is not whole would come first, and shift all others
        top, left, rows, columns = (side - side % divisor for side in box)
        return Crop(turns, (top, left, rows, columns), hflip, vflip, divisor)

    def whole(self, height: int, width: int) -> Crop:
        """Return the crop that is all of an image of this height and width."""
        return Crop(0, (0, 0, height, width), hflip=False, vflip=False)

    def most_shrinkage(self, height: int, width: int) -> int:
        """Return the largest divisor, of 1, 2, 4 and 8, that leaves a crop at least `GAP` times too large."""
        room = min(height / self.image_size[0], width / self.image_size[1]) / GAP
        return max(divisor for divisor in DIVISORS if divisor == 1 or (self.shrinks and divisor <= room))

    def apply(self, image: Tensor, crop: Crop, divisor: int = 1) -> Tensor:
        """Take a crop.

        Args:
            image: uint8 (C, H, W)
            crop: of it, or of what it was before it was decoded at a fraction of its size
            divisor: of that fraction
        """
        if crop.turns:
            image = torch.rot90(image, crop.turns, (-2, -1))
        box = (side // divisor for side in crop.box)
        image = F.crop(image, *box).clone()  # resizing a copy is faster than resizing a view
        image = _resize(self.image_size, self.channels)(image)
        mirrored = [dim for dim, mirrors in ((-1, crop.hflip), (-2, crop.vflip)) if mirrors]
        return image.flip(mirrored) if mirrored else image


def _draw_box(height: int, width: int, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop: as torchvision's RandomResizedCrop, in fewer steps.

    Args:
        height, width: of the image
        scale: smallest and largest fraction of its area
    """
    for _ in range(ATTEMPTS):
        area = height * width * torch.empty(1).uniform_(*scale).item()
        ratio = torch.empty(1).uniform_(*LOG_RATIO).exp_().item()
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top = int(torch.randint(height - rows + 1, (1,)))
            return top, int(torch.randint(width - columns + 1, (1,))), rows, columns
    rows, columns = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def training_crop(image_size: Size, channels: int, images: ImagesConfig) -> RandomCropFlip:
    """Make the random crop to (height, width) that the settings ask for, of images of C channels."""
    return RandomCropFlip(
        image_size,
        images.crop_scale,
        images.hflip,
        images.vflip,
        turns=images.turns,
        channels=channels,
        shrinks=images.decode == "scaled",
    )


def _resize(size: Size, channels: int | None) -> Transform:
    """Make the resizing of uint8 (C, H, W) or (2 C, H, W), see `resize_data`."""
    resize = partial(F.resize, size=list(size), interpolation=BICUBIC, antialias=True)
    return resize if channels is None else partial(resize_data, channels=channels, resize=resize)


def resize_center_crop(
    image_size: Size, crop_pct: float = CROP_PCT, *, channels: int | None = None
) -> Transform:
    """Make the usual evaluation transform: resize to cover `image_size / crop_pct`, crop the centre.

    To 384 pixels and more, images are resized straight, without regard to `crop_pct`, as for ConvNeXt's
    published accuracies at 384 and 512.

    Args:
        image_size: (height, width) of the result
        crop_pct: fraction of the resized image's short side that the crop takes
        channels: C, where images may say which of their values are there, see `fcmae.data.validity`

    Returns:
        a function from uint8 (C, H, W) to uint8 (C, *image_size)
    """
    if min(image_size) >= STRAIGHT_FROM:
        return _resize(image_size, channels)
    covered = int(image_size[0] / crop_pct), int(image_size[1] / crop_pct)
    resize = partial(_resize_center_crop, image_size=image_size, covered=covered)
    return resize if channels is None else partial(resize_data, channels=channels, resize=resize)


def _resize_center_crop(image: Tensor, image_size: Size, covered: Size) -> Tensor:
    """Resize uint8 or float32 (C, H, W) to cover a size, and crop its centre."""
    size = _covering_size(image.shape[-2], image.shape[-1], covered)
    if any(whole > THIN * kept for whole, kept in zip(size, image_size, strict=True)):
        return _resize_centre(image, size, image_size)
    image = F.resize(image, list(size), interpolation=BICUBIC, antialias=True)
    cropped: Tensor = F.center_crop(image, list(image_size))
    return cropped


def _resize_centre(image: Tensor, size: Size, crop: Size) -> Tensor:
    """Resize (C, H, W) to a size of which only the centre is computed: bicubic, as Pillow defines it.

    Of 1 x 20000 pixels, enlarged to 256 x 5120000, the centre needs five. Columns come first, and of uint8
    their result is rounded, as in the resizing of all pixels, from which this differs by a level at most.
    """
    for dim in (-1, -2):
        start = round((size[dim] - crop[dim]) / 2)
        first, weights = _bicubic_weights(image.shape[dim], size[dim], start, crop[dim])
        window = image.narrow(dim, first, weights.shape[1]).movedim(dim, -1).float()
        resized = window @ weights.T
        if image.dtype == torch.uint8:
            resized = resized.round_().clamp_(0, 255).to(torch.uint8)
        image = resized.movedim(-1, dim)
    return image.contiguous()


def _bicubic_weights(source: int, target: int, start: int, count: int) -> tuple[int, Tensor]:
    """Weigh source pixels for `count` target pixels from `start` on: first source pixel, (count, window)."""
    scale = source / target
    stretch = max(scale, 1.0)  # antialiasing: the kernel covers what a target pixel stands for
    centres = (torch.arange(start, start + count, dtype=torch.float64) + 0.5) * scale
    first = max(0, math.floor(float(centres[0]) - 2 * stretch))
    last = min(source, math.ceil(float(centres[-1]) + 2 * stretch))
    x = ((torch.arange(first, last) + 0.5 - centres[:, None]) / stretch).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2  # Keys' kernel, a = -1/2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return first, (weights / weights.sum(1, keepdim=True)).float()


def _covering_size(height: int, width: int, covered: Size) -> Size:
    """Return the smallest (height, width) in the image's proportions that covers `covered`."""
    if height * covered[1] <= width * covered[0]:
        return covered[0], covered[0] * width // height
    return covered[1] * height // width, covered[1]


def channel_statistics(
    channels: int, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of pixels in 0..1, one number a channel each.

    Args:
        channels: C
        mean: by default ImageNet's for 3 channels, else 0.5
        std: by default ImageNet's for 3 channels, else 0.25

    Raises:
        UserError: as many numbers as channels are needed, standard deviations above 0
    """
    if mean is None:
        mean = IMAGENET_MEAN if channels == 3 else (0.5,) * channels
    if std is None:
        std = IMAGENET_STD if channels == 3 else (0.25,) * channels
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(f"{name} {values}: give {channels} values, one for each channel")
    if min(std) <= 0:
        raise UserError(f"std {std} must be above 0 in every channel")
    return tuple(mean), tuple(std)


def to_float(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalise a batch on the device it is on.

    Args:
        images: uint8 (B, C, H, W), or (B, 2 C, H, W) with what is there, see `fcmae.data.validity`
        mean: of pixels in 0..1, C numbers
        std: of pixels in 0..1, C numbers

    Returns:
        float32 (B, C, H, W): (images / 255 - mean) / std; 0 where nothing is there
    """
    images, there = split_validity(images, len(mean))
    shift = _per_channel(tuple(255 * value for value in mean), images.device)
    scale = _per_channel(tuple(1 / (255 * value) for value in std), images.device)
    normalised = images.to(torch.float32).sub_(shift).mul_(scale)
    return normalised if there is None else normalised.masked_fill_(~there, 0.0)


@lru_cache(maxsize=8)  # copying them to a GPU anew would make every step wait
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Put constants, C numbers, on a device as float32 (C, 1, 1)."""
    return torch.tensor(values, device=device)[:, None, None]
