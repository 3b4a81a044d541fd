"""The settings of how images are read and augmented."""

import math
from dataclasses import dataclass
from typing import Literal

from fcmae.core.errors import UserError

DATA_ROOT = "data"  # folder of data sets that are known by name
VAL_FRACTION = 0.2  # of data in one piece that is kept for validation
CROP_PCT = 0.875  # fraction of the short side that evaluation crops, where nothing else is said
MOST_WORKERS = 8  # that read images for each process, where no number is given
STRAIGHT_FROM = 384  # from this size on, evaluation resizes without a crop


@dataclass
class ImagesConfig:
    """Reading and augmenting images.

    Args:
        workers: processes that read images, by default by device and cores; 0 reads in the one that trains
        crop_scale: smallest and largest fraction of an image's area that a random crop takes
        hflip: mirror left to right with probability 1/2
        vflip: mirror top to bottom with probability 1/2
        turns: turn by a random multiple of 90 degrees
        mean: per-channel mean of pixels in 0..1, by default ImageNet's for 3 channels, else measured
        std: per-channel standard deviation of pixels in 0..1, by default ImageNet's for 3 channels, else
            measured
        max_broken: fraction of the images that may be broken; a run that meets more ends
        value_range: values of 16-bit and float images that become black and white, as [0, 4095] for 12 bits
        no_data: stored values that are none, filled with the mean and never asked for: a number, as -9999;
            nan, for all that is not finite; mask, where the last channel of the file is 0
        decode: full, all pixels; scaled, a JPEG at 1/2, 1/4 or 1/8 of its size where a crop stays 2.5 times
            as large as what it is resized to, which differs by a third of a level of 255; gpu, JPEGs on the
            GPU that trains, a batch at a time, in pre-training
        repeats: samples made of an image each time that it is read, each with a crop of its own: reading
            costs so much less, and a batch holds so many fewer images. Epochs count samples
    """

    workers: int | None = None
    crop_scale: tuple[float, float] = (0.2, 1.0)
    hflip: bool = True
    vflip: bool = False
    turns: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    max_broken: float = 1.0
    value_range: tuple[float, float] | None = None
    no_data: Literal["nan", "mask"] | float | None = None
    decode: Literal["full", "scaled", "gpu"] = "scaled"
    repeats: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.no_data, float) and math.isnan(self.no_data):
            self.no_data = "nan"  # it equals itself, and so a run its own settings

    def check(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: the message names the setting and what it may be
        """
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise UserError(
                f"images.crop_scale is {self.crop_scale}: give two fractions, 0 < smallest <= largest <= 1"
            )
        if self.workers is not None and self.workers < 0:
            raise UserError(f"images.workers is {self.workers}: 0 reads in the process that trains")
        if self.repeats < 1:
            raise UserError(f"images.repeats is {self.repeats}: choose 1 or more")
        if not 0 <= self.max_broken <= 1:
            raise UserError(
                f"images.max_broken is {self.max_broken}: give a fraction, 0.01 for one in a hundred"
            )
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise UserError(f"images.value_range is {self.value_range}: the first value must be the smaller")
