"""Pre-training: the masked autoencoder as a task, and a run of it from settings to exported encoder.

Shapes: B batch, C channels, H W pixels, V visible patches.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fcmae.core.device import pick_device
from fcmae.core.distributed import current_world
from fcmae.data.broken import BrokenList
from fcmae.data.dataset import Batch, ImageDataset
from fcmae.data.encoded import check_gpu_decoding
from fcmae.data.images import Selection
from fcmae.data.index import load_lists
from fcmae.data.loader import Loader, choose_workers
from fcmae.data.sampler import StepSampler
from fcmae.data.sources import SourceOptions, find_opener, open_source
from fcmae.data.statistics import measure_statistics, settle_statistics
from fcmae.data.transforms import resize_center_crop, to_float, training_crop
from fcmae.data.validity import split_validity
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.loggers import Logger
from fcmae.engine.optim import parameter_groups
from fcmae.engine.progress import Criterion, Summary
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.task import Task
from fcmae.engine.trainer import train
from fcmae.models.card import Card
from fcmae.models.kernels.choice import kernels
from fcmae.models.kernels.selftest import Example
from fcmae.models.mask import Mask
from fcmae.models.storage import save_weights
from fcmae.pretraining.augment import Augmentation, Drawn
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.initial import WARMUP_FRACTION, gentle_groups, load_initial
from fcmae.pretraining.knn import KnnProbe
from fcmae.pretraining.masking import patchify, random_mask, random_mask_of_data
from fcmae.pretraining.model import FCMAE
from fcmae.pretraining.quality import Quality, count_sampled, evenly_spaced, hold_out
from fcmae.pretraining.reconstruct import draw_reconstructions, few_images

logger = logging.getLogger(__name__)

NUM_PICTURES = 8


def pretrain(
    config: PretrainConfig, run: RunFolder, loggers: Sequence[Callable[[RunFolder], Logger]] = ()
) -> Summary:
    """Run, or go on with, a pre-training to its end; then export the encoder and draw the last pictures.

    Args:
        config: the settings
        run: the run's folder, from `fcmae.pretraining.prepare.prepare(config)`
        loggers: makers of loggers beside those that the settings name

    Raises:
        UserError: a setting that cannot work, a loss that is not finite, a disk that is full
    """
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    task = PretrainTask(config, run, device)
    if config.init and not Checkpoints(run.checkpoints).files():
        task.start_from(config.init)
    best = task.criterion if config.init else None
    summary = train(task, config, device=device, run=run, best=best, loggers=loggers)
    if current_world().is_rank_zero:
        task.write_encoder()
        if summary.interrupted is None:  # else whoever stopped it waits
            task.draw_reconstructions()
    return summary


class PretrainTask(Task):
    """FCMAE on images without labels.

    Args:
        config: the run's settings
        run: its folder, acquired; holds the list of images where they come from a folder
        device: where batches go
    """

    model: FCMAE

    def __init__(self, config: PretrainConfig, run: RunFolder, device: torch.device) -> None:
        self.config, self.run, self.device = config, run, device
        if config.images.decode == "gpu":
            check_gpu_decoding(device, config.network.in_chans, config.images.no_data)
        self.model = FCMAE(**config.model_options())
        self.augmentation = Augmentation(config.augment, config.network.in_chans)
        lists = load_lists(run.images)
        self.listed = find_opener(config.data).describe(lists)
        options = SourceOptions(
            config.network.in_chans,
            self.model.image_size[0],
            config.images.value_range,
            config.data_root,
            lists=lists,
            no_data=config.images.no_data,
        )
        images = open_source(config.data, options)
        self.source, unseen = hold_out(images, config.count_held_out(len(images)))
        channels, size = config.network.in_chans, self.model.image_size
        workers = choose_workers(device, config.images.workers)
        self.mean, self.std = settle_statistics(
            config.images,
            channels,
            run.statistics,
            lambda: measure_statistics(self.source, channels, size, workers=workers),
        )
        transform = partial(
            add_mask,
            channels=channels,
            grid=self.model.grid,
            num_visible=self.model.num_visible,
            augmentation=self.augmentation,
        )
        crop = training_crop(self.model.image_size, channels, config.images)
        later = channels if config.images.decode == "gpu" else None
        self.dataset = ImageDataset(self.source, transform, config.seed, crop, later)
        self.steps_per_epoch = len(self.source) // config.batch_size
        self.broken = BrokenList(run.broken_images)
        sampled = evenly_spaced(len(self.source), count_sampled(len(self.source), config.probe_every))
        sample = Selection(self.source, sampled)
        self.quality = Quality(config, sample, unseen, size, self.mean, self.std, device)
        self.probe = (
            KnnProbe(config, self.model.image_size, self.mean, self.std, device)
            if config.probe_data
            else None
        )
        self.decoder_starts_anew = False
        self.worth: list[tuple[int, float]] = []  # of the features by epoch, from 0, after --init

    def start_from(self, init: str) -> None:
        """Put trained weights into the model, and measure what they are worth before they learn further.

        Args:
            init: as for `load_initial`

        Raises:
            UserError: weights that cannot be read, or do not fit
        """
        self.decoder_starts_anew = not load_initial(self.model, init)
        self.model.to(self.device)
        with kernels("torch"):  # no kernel has passed its self-test yet
            metrics = self.measure()
        self.worth = [(0, metrics[self.criterion[0]])]
        measured = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        logger.info("what the features of %s are worth: %s", init, measured)

    def measure(self) -> dict[str, float]:
        """Return what the features are worth, the same in every process; all of them have to call it."""
        metrics = self.quality.measure(self.model)
        if self.probe is not None:
            metrics["knn"] = self.probe.accuracy(self.model)
        return metrics

    @property
    def criterion(self) -> Criterion:
        """What tells good features from bad ones: k-NN where there are labels, else their effective rank."""
        return ("knn" if self.probe is not None else "rank"), "max"

    def guard(self, epoch: int, worth: float) -> None:
        """Warn where features are worth less than those of the weights that the run started from."""
        self.worth.append((epoch, worth))
        best_epoch, best = max(self.worth, key=lambda each: each[1])
        if worth < self.worth[0][1]:
            where = f"those of epoch {best_epoch}, in best.pt" if best_epoch else "those of --init itself"
            logger.warning(
                "the features are worth LESS than when the run started: %s %.4g after epoch %d, %.4g at the "
                "start; the best are %s (%.4g). Lower --optim.lr or --stage-decay, or stop here",
                self.criterion[0], worth, epoch, self.worth[0][1], where, best,
            )  # fmt: skip

    def examples(self) -> list[Example]:
        images = torch.empty(1, self.model.in_chans, *self.model.image_size, device="meta")
        return [*self.model.examples(), (self.model.encoder, (images,))]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        config = self.config
        if not config.init and config.stage_decay == 1:
            return parameter_groups(self.model, weight_decay)
        warmup = config.epochs * WARMUP_FRACTION if self.decoder_starts_anew else 0.0
        warmup = warmup if config.init_warmup is None else config.init_warmup
        first_step = round(warmup * self.steps_per_epoch)  # a checkpoint's own takes its place on resuming
        return gentle_groups(self.model, weight_decay, stage_decay=config.stage_decay, first_step=first_step)

    def batches(self, start_step: int, total_steps: int) -> Any:
        sampler = StepSampler(
            len(self.dataset),
            self.config.batch_size,
            self.config.seed,
            start_step=start_step,
            total_steps=total_steps,
            accumulation_steps=self.config.optim.accumulation_steps,
            repeats=self.config.images.repeats,
        )
        workers = choose_workers(self.device, self.config.images.workers)
        return Loader(self.dataset, sampler, workers, self.device, self.config.images.max_broken)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batch.to(self.device)
        self.broken.add(self.source, batch.broken)
        images, visible, drawn = batch.data
        images, there = split_validity(images, len(self.mean))
        if drawn:
            images, there = self.augmentation.apply(images, there, drawn)
        images = to_float(images, self.mean, self.std)
        loss, _, _ = self.model(images, Mask(visible, self.model.grid), there=there)
        return loss, {}

    def describe(self, batch: Batch) -> list[str]:
        return [self.source.name(index) for index in batch.source_index.tolist()]

    def evaluate(self, epoch: int) -> dict[str, float]:
        self.broken.gather()
        metrics: dict[str, float] = {"broken_images": len(self.broken)} if self.broken else {}
        if epoch % self.config.probe_every == 0 or epoch == self.config.epochs:
            metrics |= self.measure()
            if self.worth:
                self.guard(epoch, metrics[self.criterion[0]])
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"worth": self.worth}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.worth = state["worth"]

    def data(self) -> dict[str, int | str]:
        return self.listed

    def draws(self, epoch: int) -> bool:
        return epoch % self.config.pictures_every == 0

    def draw(self) -> None:
        self.write_encoder()
        self.draw_reconstructions()

    def write_encoder(self) -> None:
        """Export the encoder as it is now."""
        card = encoder_card(self.config, self.model.image_size, self.mean, self.std)
        save_weights(self.run.encoder, self.model.encoder.state_dict(), card)

    def draw_reconstructions(self) -> None:
        """Draw reconstructions of the same few images under the same masks."""
        transform = resize_center_crop(self.model.image_size, channels=len(self.mean))
        centred = ImageDataset(self.source, transform, self.config.seed)
        images = few_images(centred, NUM_PICTURES)
        generator = torch.Generator().manual_seed(self.config.seed)
        draw_reconstructions(self.model, images, self.mean, self.std, self.run.reconstructions, generator)


def encoder_card(
    config: PretrainConfig, image_size: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> Card:
    """Return the card of a run's encoder: what is needed to build and to use it, and what made it.

    Args:
        config: the run's settings
        image_size: (height, width)
        mean, std: of pixels in 0..1, by channel
    """
    options = {name: getattr(config.network, name) for name in ("in_chans", "stem_stride", "depths", "dims")}
    return Card(
        model=config.model,
        options={name: value for name, value in options.items() if value is not None},
        image_size=image_size,
        mean=mean,
        std=std,
        value_range=config.images.value_range,
        no_data=config.images.no_data,
        pretraining={"data": config.data, "epochs": config.epochs, "mask_ratio": config.mask_ratio},
    )


def add_mask(
    image: Tensor, channels: int, grid: tuple[int, int], num_visible: int, augmentation: Augmentation
) -> tuple[Tensor, Tensor, Drawn]:
    """Draw the visible patches of an image, and its colours: in the reader, so that its seed decides.

    Args:
        image: uint8 (C, H, W), or (2 C, H, W), see `fcmae.data.validity`
        channels: C
        grid: (h, w), rows and columns of patches
        num_visible: V
        augmentation: draws by what the image will be changed

    Returns:
        the image, int64 (V,) and what was drawn
    """
    there = split_validity(image, channels)[1]
    if there is None:
        visible = random_mask(1, grid, num_visible).visible[0]
        return image, visible, augmentation.draw()
    has_data = patchify(there[None], image.shape[-1] // grid[1]).any(-1)
    visible = random_mask_of_data(has_data, grid, num_visible).visible[0]
    return image, visible, augmentation.draw()
