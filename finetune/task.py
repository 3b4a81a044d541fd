"""Fine-tuning: a classifier as a task, and a run of it from settings to the best weights.

Shapes: B batch, K classes, C channels, H W pixels.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcmae.core.device import pick_device
from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.data.broken import BrokenList
from fcmae.data.dataset import Batch, ImageDataset
from fcmae.data.evaluation import EvaluationReader, micro_batch_size
from fcmae.data.index import load_lists
from fcmae.data.loader import Loader, choose_workers
from fcmae.data.sampler import StepSampler
from fcmae.data.sources import find_opener
from fcmae.data.statistics import measure_statistics, settle_statistics
from fcmae.data.transforms import to_float, training_crop
from fcmae.engine.checkpoint import Checkpoints, load_checkpoint
from fcmae.engine.loggers import Logger
from fcmae.engine.progress import Summary
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.task import Task
from fcmae.engine.trainer import train
from fcmae.finetune.augment import mixing, random_erasing, training_transform
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.data import class_weights, open_data
from fcmae.finetune.layer_decay import layer_decay_groups
from fcmae.finetune.measure import measure
from fcmae.finetune.network import build_network
from fcmae.finetune.objective import best_direction, head_of, make_objective
from fcmae.finetune.prepare import check_batch
from fcmae.finetune.trained import save_network
from fcmae.models.convnext import ConvNeXt
from fcmae.models.kernels.selftest import Example

logger = logging.getLogger(__name__)


def finetune(
    config: FinetuneConfig, run: RunFolder, loggers: Sequence[Callable[[RunFolder], Logger]] = ()
) -> Summary:
    """Run, or go on with, a fine-tuning to its end; keep the weights of the best epoch.

    Args:
        config, run: from `fcmae.finetune.prepare.prepare`
        loggers: makers of loggers beside those that the settings name

    Raises:
        UserError: a setting that cannot work, a loss that is not finite, a disk that is full
    """
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    task = FinetuneTask(config, run, device)
    best = (task.best, best_direction(task.best))
    summary = train(
        task, config, device=device, run=run, best=best, patience=config.patience, loggers=loggers
    )
    if current_world().is_rank_zero and summary.interrupted is None:
        task.write_results()
    return summary


class FinetuneTask(Task):
    """Training on labels with label smoothing, mixing, layer decay and a moving average of the weights.

    Args:
        config: the run's settings, resolved
        run: its folder, acquired
        device: where batches go
    """

    model: nn.Module

    def __init__(self, config: FinetuneConfig, run: RunFolder, device: torch.device) -> None:
        from timm.utils import ModelEmaV3

        self.run, self.device = run, device
        lists = load_lists(run.train_images, run.val_images)
        self.listed = find_opener(config.data).describe(lists)
        self.train_data, self.val_data = open_data(config, run)
        self.workers = choose_workers(device, config.images.workers)
        self.mean, self.std = self._settle_statistics(config)
        images = replace(config.images, mean=self.mean, std=self.std)  # as the weights' card will say
        self.config = config = replace(config, images=images)
        check_batch(config, len(self.train_data.labels))
        self.classes, self.labels = self.train_data.classes, self.train_data.labels.to(device)
        self.model = build_network(config, self.classes).to(device)
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay) if config.ema_decay else None
        self.averaged = None if self.ema is None else self.ema.module
        transform = training_transform(config.size, config.images, config.augment, self.mean)
        crop = training_crop(config.size, config.in_chans, config.images)
        self.dataset = ImageDataset(self.train_data.source, transform, config.seed, crop)
        self.steps_per_epoch = len(self.dataset) // config.batch_size
        self.erase = random_erasing(config.augment, device)
        single = self.train_data.kind == "class"
        self.mix = mixing(config.augment, len(self.classes)) if single else None
        weights = class_weights(self.train_data.labels.numpy(), len(self.classes)) if single else np.ones(1)
        self.class_weights = torch.from_numpy(weights).float()
        self.loss_weights = self.class_weights.to(device) if config.balance == "loss" and single else None
        self.objective = make_objective(self.train_data, config, self.loss_weights)
        self.best = self.objective.best(config.best)
        self.broken = BrokenList(run.broken_images)
        self.broken_val = BrokenList(run.broken_val_images)
        batch_size = micro_batch_size(config.batch_size, config.optim.accumulation_steps)
        self.reader = EvaluationReader(
            config.size,
            config.crop_pct,
            self.mean,
            self.std,
            batch_size,
            self.workers,
            device,
            gaps=config.images.no_data is not None,
        )

    def _settle_statistics(self, config: FinetuneConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of the images to train on, see `settle_statistics`."""
        source, channels = self.train_data.source, config.in_chans
        return settle_statistics(
            config.images,
            channels,
            self.run.statistics,
            lambda: measure_statistics(source, channels, config.size, workers=self.workers),
        )

    def examples(self) -> list[Example]:
        if not isinstance(self.model, ConvNeXt):
            return []
        return [(self.model, (torch.empty(1, self.config.in_chans, *self.config.size, device="meta"),))]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        return layer_decay_groups(self.model, weight_decay, self.config.layer_decay, self.config.layer_groups)

    def batches(self, start_step: int, total_steps: int) -> Any:
        balanced = self.config.balance == "sampler" and self.train_data.kind == "class"
        weights = self.class_weights[self.train_data.labels].numpy() if balanced else None
        sampler = StepSampler(
            len(self.dataset),
            self.config.batch_size,
            self.config.seed,
            start_step=start_step,
            total_steps=total_steps,
            accumulation_steps=self.config.optim.accumulation_steps,
            repeats=self.config.images.repeats,
            weights=weights,
        )
        return Loader(self.dataset, sampler, self.workers, self.device, self.config.images.max_broken)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.broken.add(self.train_data.source, batch.broken)
        images = to_float(batch.to(self.device).data, self.mean, self.std)
        targets = self.labels[batch.source_index.to(self.device, non_blocking=True)]
        if self.erase is not None:
            images = self.erase(images)
        if self.mix is not None:
            images, targets = self.mix(images, targets)
        logits = self.model(images).float()
        loss = self.objective.loss(logits, targets)
        return loss / len(logits), {}  # by the images and not by their weights, however a batch is cut

    def describe(self, batch: Batch) -> list[str]:
        return [self.train_data.source.name(index) for index in batch.source_index.tolist()]

    def optimizer_stepped(self, step: int) -> None:
        if self.ema is not None:
            self.ema.update(self.model)

    def evaluate(self, epoch: int) -> dict[str, float]:
        metrics = self._measure(self.model)
        if self.averaged is not None:
            metrics |= {f"ema_{name}": value for name, value in self._measure(self.averaged).items()}
        return metrics

    def _measure(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics of a network on the validation images."""
        model.eval()

        def predict(images: Tensor) -> Tensor:
            outputs: Tensor = model(images)
            return self.objective.to_units(outputs)

        scores = measure(predict, self.val_data, self.reader, broken=self.broken_val)
        self.broken.gather()
        self.broken_val.gather()
        return scores.metrics()

    def data(self) -> dict[str, int | str]:
        return self.listed

    def saved(self, state: dict[str, Any], best: bool) -> None:
        if best:
            self.write_weights(state)

    def write_results(self) -> None:
        """Write the best weights once more, where their checkpoint is whole; else those written with it stay.

        Raises:
            UserError: the checkpoint is damaged, and nothing was written with it
        """
        best = Checkpoints(self.run.checkpoints).best
        if not best.exists():
            return
        try:
            self.write_weights(load_checkpoint(best))
        except UserError as error:
            if not self.run.classifier.exists():
                raise
            logger.warning("%s; %s, written with it, stays as it is", error, self.run.classifier)

    def write_weights(self, state: dict[str, Any]) -> None:
        """Write a checkpoint's weights as the run's result, the averaged ones if `best` says so."""
        chosen = state["ema" if self.config.keeps_averaged else "model"]
        metrics = {self.best: state["progress"]["best"]}
        if self.train_data.kind != "class":
            chosen = self.objective.finish(head_of(self.model), chosen)
        save_network(chosen, self.config, self.classes, metrics, self.run.classifier, self.train_data.kind)
