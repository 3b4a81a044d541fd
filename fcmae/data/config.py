"""The settings of the data room: how images become batches."""

from dataclasses import dataclass

DIGITS = "digits"  # the name of the built-in data
NUM_DIGITS = 1797


@dataclass
class ImagesConfig:
    """Reading and augmenting images.

    Args:
        workers: processes that read images; none chooses by device and cores, 0 reads in the main process
        crop_scale: smallest and largest share of an image's area that a random crop takes
        hflip: mirror every second image left to right
        vflip: mirror every second image top to bottom
        mean: per-channel mean of pixels in 0..1; none is ImageNet's for 3 channels, else 0.5
        std: per-channel standard deviation of pixels in 0..1; none is ImageNet's for 3 channels, else 0.25
        value_range: values of 16-bit and float images that become black and white, as (0, 4095) for 12 bits
    """

    workers: int | None = None
    crop_scale: tuple[float, float] = (0.2, 1.0)
    hflip: bool = True
    vflip: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    value_range: tuple[float, float] | None = None
