"""Mean and standard deviation of each channel, measured from the images.

Shapes: B batch, C channels, H W pixels.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fcmae.core.distributed import current_world, from_rank_zero, gather_lists
from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically
from fcmae.data.config import ImagesConfig
from fcmae.data.dataset import ImageDataset
from fcmae.data.images import ImageSource
from fcmae.data.loader import Loader
from fcmae.data.transforms import Size, channel_statistics, resize_center_crop
from fcmae.data.validity import split_validity

SAMPLE = 1000  # images that are looked at: enough for three digits
BATCH = 16
DIGITS = 4  # of what is measured, so that nothing hangs on the order in which it was added up
LEAST_STD = 1 / 255  # of a channel that is the same everywhere


@dataclass(frozen=True)
class ChannelStatistics:
    """What was measured of pixels in 0..1.

    Args:
        mean, std: C numbers each, of four digits
        images: how many were looked at
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int


class Moments:
    """Sums of the values of images and of their squares, whole numbers: those of several processes add up.

    Args:
        channels: C
    """

    def __init__(self, channels: int) -> None:
        self.channels, self.images = channels, 0
        self._sums = torch.zeros(3, channels, dtype=torch.int64)  # of values, of squares; how many values

    def add(self, images: Tensor) -> None:
        """Add uint8 ([B,] C, H, W) or ([B,] 2 C, H, W), of which only the values count that are there."""
        values, there = split_validity(images if images.ndim == 4 else images[None], self.channels)
        self.images += len(values)
        numbers = values.to(torch.int64)
        if there is None:
            count = torch.full((self.channels,), numbers[:, 0].numel())
        else:
            numbers, count = numbers * there, there.sum((0, 2, 3))
        self._sums += torch.stack([numbers.sum((0, 2, 3)), numbers.square().sum((0, 2, 3)), count])

    def gather(self) -> None:
        """Add up what all processes of the run have seen, in each of them; all of them call this."""
        seen = gather_lists([(self.images, self._sums.tolist())])
        self.images = sum(images for images, _ in seen)
        self._sums = torch.tensor([sums for _, sums in seen]).sum(0)

    def statistics(self) -> ChannelStatistics:
        """Return mean and standard deviation of what was added.

        Raises:
            UserError: a channel has no value at all
        """
        total, squares, count = self._sums.double()
        if not count.all():
            empty = [number for number, seen in enumerate(count.tolist(), 1) if not seen]
            raise UserError(
                f"no image among {self.images} has a value in channel {', '.join(map(str, empty))}: "
                "is --images.no-data right?"
            )
        mean = total / count / 255
        std = (squares / count / 255**2 - mean.square()).clamp(min=LEAST_STD**2).sqrt()
        return ChannelStatistics(_rounded(mean), _rounded(std), self.images)


def measure_statistics(
    source: ImageSource, channels: int, image_size: Size, *, sample: int = SAMPLE, workers: int = 0
) -> ChannelStatistics:
    """Measure images from all over a source, resized to what is trained on; what hangs over is cropped.

    Every process of a run reads its part, and all return the same; all of them have to call this.

    Args:
        source: the images
        channels: C
        image_size: (height, width) that they are resized to
        sample: how many images to look at, at most
        workers: processes that read; 0 reads in this one

    Raises:
        UserError: they cannot be read, or a channel has no value at all
    """
    count, world = min(sample, len(source)), current_world()
    mine = range(world.rank, count, world.size)
    keys = [(0, number * len(source) // count) for number in mine]
    batches = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
    dataset = ImageDataset(source, resize_center_crop(image_size, 1.0, channels=channels), seed=0)
    moments = Moments(channels)
    for batch in Loader(dataset, batches, workers, torch.device("cpu")):
        moments.add(batch.data)
    moments.gather()
    return moments.statistics()


def settle_statistics(
    config: ImagesConfig,
    channels: int,
    kept: Path,
    measure: Callable[[], ChannelStatistics] | None = None,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation as given, else ImageNet's of 3 channels, else those of the images.

    What is measured is kept in the run, for when it goes on. All processes of a run call this.

    Args:
        config: may give one of them, or both
        channels: C
        kept: the run's file
        measure: measures the images; without it, and with nothing kept, the mean is 0.5, the deviation 0.25

    Raises:
        UserError: numbers that do not fit the channels, a damaged file, or images that cannot be read
    """
    mean, std = config.mean, config.std
    if channels != 3 and (mean is None or std is None):
        found = from_rank_zero(lambda: _read(kept))
        if found is None and measure is not None:
            found = measure()
            if current_world().is_rank_zero:
                with write_atomically(kept) as file:
                    file.write(json.dumps(asdict(found)).encode())
                print(f"mean {found.mean}, standard deviation {found.std} of {found.images} images: {kept}")
        if found is not None:
            mean, std = mean or found.mean, std or found.std
    return channel_statistics(channels, mean, std)


def _read(kept: Path) -> ChannelStatistics | None:
    """Return what a run has measured, if it has.

    Raises:
        UserError: the file is damaged
    """
    try:
        said = json.loads(kept.read_text(encoding="utf-8"))
        return ChannelStatistics(tuple(said["mean"]), tuple(said["std"]), int(said["images"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{kept}: damaged ({error}); without it they are measured anew") from None


def _rounded(values: Tensor) -> tuple[float, ...]:
    """Return numbers of four digits."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in values.tolist())
