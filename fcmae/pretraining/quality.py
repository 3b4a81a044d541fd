"""Whether a pre-training learns, told without labels: rank and collapse of its features, and unseen images.

Shapes: B batch, C channels, H W pixels, N images, D features, L patches.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.core.distributed import current_world, gather_lists
from fcmae.data.dataset import ImageDataset
from fcmae.data.evaluation import micro_batch_size
from fcmae.data.images import ImageSource, Remainder, Selection
from fcmae.data.transforms import resize_center_crop, to_float
from fcmae.data.validity import split_validity
from fcmae.models.collapse import channel_distance, distances_recorded
from fcmae.models.convnext import ConvNeXt
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.mask import Mask
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.masking import random_mask
from fcmae.pretraining.model import FCMAE

MOST_SAMPLED, FEWEST_SAMPLED = 256, 8
IMAGES_PER_SAMPLED = 64  # images trained on for one that is measured


def count_sampled(num_images: int, every: int) -> int:
    """Return how many images to measure features on, every so many epochs of `num_images`."""
    affordable = num_images * every // IMAGES_PER_SAMPLED
    return min(num_images, MOST_SAMPLED, max(FEWEST_SAMPLED, affordable))


def hold_out(source: ImageSource, count: int) -> tuple[ImageSource, ImageSource]:
    """Return a source without some of its images, evenly spaced over it, and these.

    Args:
        source: all images
        count: how many to hold out; with 0 the source itself comes back
    """
    if count == 0:
        return source, Selection(source, np.empty(0, np.int64))
    held = evenly_spaced(len(source), count)
    return Remainder(source, held), Selection(source, held)


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """Return `count` numbers of 0 .. length - 1, int64 and evenly spaced."""
    return np.arange(count, dtype=np.int64) * length // count


def effective_rank(features: Tensor) -> float:
    """Return RankMe (Garrido et al., arXiv 2210.02885): the exponential of the entropy of singular values.

    From 1, where all images have the same features up to a factor, to the smaller of N and D.

    Args:
        features: (N, D)
    """
    values = torch.linalg.svdvals(features.double())
    fractions = values / values.sum() + 1e-7
    return float((-fractions * fractions.log()).sum().exp())


class Quality:
    """What an encoder's features are worth on fixed images, which each process reads its part of once.

    Args:
        config: of the run
        sample: images to measure features on
        held_out: images that are not trained on, to measure the reconstruction error on; may be empty
        image_size: (height, width)
        mean, std: of pixels in 0..1, by channel
        device: where to compute
    """

    def __init__(
        self,
        config: PretrainConfig,
        sample: ImageSource,
        held_out: ImageSource,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self.sample, self.held_out = sample, held_out
        self.mean, self.std, self.device, self.seed = mean, std, device, config.seed
        self.batch_size = micro_batch_size(config.batch_size, config.optim.accumulation_steps)
        self.image_size = image_size

    @torch.no_grad()
    def measure(self, model: FCMAE) -> dict[str, float]:
        """Return the metrics, the same in every process of the run; all of them have to call it.

        Args:
            model: left in evaluation mode

        Returns:
            `rank`: `effective_rank` of the pooled and normalised features; `distance1` ... `distance4`: mean
            `channel_distance` after each stage, or `distance` after the last of an encoder that is no
            ConvNeXt; `val_loss`: the loss on held-out images under fixed masks, where there are any
        """
        model.eval()
        return self._features(model) | self._reconstruction(model)

    def _features(self, model: FCMAE) -> dict[str, float]:
        """Measure rank and collapse."""
        rows = []
        for images, numbers in self._batches(*self._sampled):
            features, distances = encode(model, to_float(images, self.mean, self.std))
            rows.append(torch.cat([numbers[:, None].double(), distances, features.double().cpu()], 1))
            places = distances.shape[1]
        measured = gather_rows(rows)
        distances, features = measured[:, 1 : 1 + places], measured[:, 1 + places :]
        names = [f"distance{i + 1}" for i in range(places)] if places > 1 else ["distance"]
        means = dict(zip(names, distances.mean(0).tolist(), strict=True))
        return {"rank": effective_rank(features), **means}

    def _reconstruction(self, model: FCMAE) -> dict[str, float]:
        """Measure the loss on images that are not trained on."""
        if not len(self.held_out):
            return {}
        rows = []
        for images, numbers in self._batches(*self._held_out):
            visible = [
                random_mask(1, model.grid, model.num_visible, self._generator(number)).visible
                for number in numbers.tolist()
            ]
            mask = Mask(torch.cat(visible).to(self.device), model.grid)
            _, there = split_validity(images, len(self.mean))
            images = to_float(images, self.mean, self.std)
            prediction = model.decode(model.encode(images, mask), mask.hidden)
            losses = [
                model.loss(
                    images[i : i + 1],
                    prediction[i : i + 1],
                    mask.hidden[i : i + 1],
                    None if there is None else there[i : i + 1],
                )
                for i in range(len(images))
            ]
            rows.append(torch.stack([numbers.double(), torch.stack(losses).double().cpu()], 1))
        return {"val_loss": float(gather_rows(rows)[:, 1].mean())}

    def _generator(self, number: int) -> torch.Generator:
        """Return what draws the mask of a held-out image, always the same; of -1, where none is, any."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + number + 1) % 2**63)

    @cached_property
    def _sampled(self) -> tuple[Tensor, Tensor]:
        """This process's part of the sample."""
        return self._read(self.sample)

    @cached_property
    def _held_out(self) -> tuple[Tensor, Tensor]:
        """This process's part of the images that are not trained on."""
        return self._read(self.held_out)

    def _read(self, source: ImageSource) -> tuple[Tensor, Tensor]:
        """Read this process's images, uint8 (N, C or 2 C, H, W), and their numbers, -1 for one that fills up.

        All processes get equally many: a sharded network needs each of them for each batch.
        """
        world = current_world()
        rows = -(-len(source) // world.size)
        numbers = torch.arange(world.rank, rows * world.size, world.size)
        transform = resize_center_crop(self.image_size, channels=len(self.mean))
        dataset = ImageDataset(source, transform, self.seed)
        images = [dataset[0, min(number, len(source) - 1)].data for number in numbers.tolist()]
        return torch.stack(images), torch.where(numbers < len(source), numbers, -1)

    def _batches(self, images: Tensor, numbers: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images, on the device, with their numbers."""
        for part, which in zip(images.split(self.batch_size), numbers.split(self.batch_size), strict=True):
            yield part.to(self.device), which


def encode(model: FCMAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return features (B, D), pooled and normalised, and channel distances by stage (B, 4), or (B, 1)."""
    encoder = model.encoder
    if not isinstance(encoder, ConvNeXt):
        maps = encoder.forward_features(images, DenseLayout())
        distances = channel_distance(maps.permute(0, 2, 3, 1).cpu())[:, None]
    else:
        with distances_recorded(encoder) as found:
            maps = encoder.forward_features(images, DenseLayout())
        last = {name.split(".")[1]: distance for name, distance in found.items()}  # a stage's last block
        distances = torch.stack(list(last.values()), 1)
    pooled = maps.float().mean((2, 3))
    return F.layer_norm(pooled, pooled.shape[-1:], eps=1e-6), distances


def gather_rows(rows: list[Tensor]) -> Tensor:
    """Return the rows of all processes in the order of their first column, without those of -1."""
    rows = gather_lists(rows)
    together = torch.cat(rows)
    together = together[together[:, 0] >= 0]
    return together[together[:, 0].argsort()]
