"""Trained networks: written with a card that says all, and opened again to be used.

Shapes: B batch, D features of an image.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcmae.core.errors import UserError
from fcmae.data.classes import Kind
from fcmae.data.config import CROP_PCT
from fcmae.data.evaluation import EvaluationReader
from fcmae.data.loader import choose_workers
from fcmae.data.transforms import channel_statistics
from fcmae.finetune.config import DEFAULT_IMAGE_SIZE, TIMM, FinetuneConfig, pair
from fcmae.finetune.network import create_timm
from fcmae.models.card import Card, read_card
from fcmae.models.geometry import check_image_size
from fcmae.models.storage import read_tensors, save_weights
from fcmae.models.weights import compare_states, create_model_from, load_weights


@dataclass(frozen=True, kw_only=True)
class CompleteCard(Card):
    """A card that says all that preparing images takes."""

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float


@dataclass(frozen=True)
class Trained:
    """A network with trained weights, and how its images are to be prepared.

    Args:
        model: in evaluation mode, on its device
        card: of the weights
    """

    model: nn.Module
    card: CompleteCard

    @property
    def num_classes(self) -> int:
        """Rows of the head; 0 where the network gives features (B, D)."""
        return int(self.model.num_classes)  # type: ignore[arg-type]

    def reader(self, batch_size: int, workers: int | None, device: torch.device) -> EvaluationReader:
        """Return what prepares images for this network; workers are chosen where none is given."""
        card, workers = self.card, choose_workers(device, workers)
        return EvaluationReader(
            card.image_size,
            card.crop_pct,
            card.mean,
            card.std,
            batch_size,
            workers,
            device,
            gaps=card.no_data is not None,
        )


def open_network(
    path: Path, device: torch.device, *, head: bool = True, image_size: int | None = None
) -> Trained:
    """Read a trained network from a run folder or a file.

    Args:
        path: as for `fcmae.load_weights`; files of ours hold timm's networks as well. A checkpoint in
            a run is used as the run's own weights are: their size, statistics and classes, averaged or not
        device: where to compute
        head: whether to have the head; without it the network gives features
        image_size: side of the images, by default that of the training, or 224

    Raises:
        UserError: no such weights, weights without a head where one is asked for, or a size that cannot be
    """
    found = read_card(path)
    if found is not None and found.model.startswith(TIMM):
        card = complete(found, image_size)
        model: nn.Module = _open_timm(path, card, head)
    else:
        weights = load_weights(path)
        card = complete(weights.card, image_size)
        model = create_model_from(weights, num_classes=None if head else 0)
    trained = Trained(model.eval().to(device), card)
    if head and trained.num_classes == 0:
        raise UserError(
            f"{path} holds an encoder without a head: fine-tune it first (fcmae finetune --init {path})"
        )
    check_image_size(card.image_size, getattr(model, "stride", 1))
    return trained


def complete(card: Card, image_size: int | None = None) -> CompleteCard:
    """Return a card with the defaults for what it does not say of preparing images.

    Args:
        card: of any weights
        image_size: side of the images, by default the card's own, or 224
    """
    mean, std = channel_statistics(card.in_chans, card.mean, card.std)
    known = {field.name: getattr(card, field.name) for field in fields(Card)}
    known |= {
        "image_size": pair(image_size or card.image_size or DEFAULT_IMAGE_SIZE),
        "mean": mean,
        "std": std,
        "crop_pct": CROP_PCT if card.crop_pct is None else card.crop_pct,
    }
    return CompleteCard(**known)


def _open_timm(path: Path, card: CompleteCard, head: bool) -> nn.Module:
    """Return timm's network of a card with the weights of a file, with or without its head."""
    classes = card.class_names or ()
    model = create_timm(card.model, len(classes), card.image_size, in_chans=card.in_chans)
    state = read_tensors(path)[0]
    try:
        compare_states(state, model.state_dict())
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    model.load_state_dict(state)
    if not head:
        model.reset_classifier(0)  # type: ignore[operator]
    return model


def save_network(
    state: dict[str, torch.Tensor],
    config: FinetuneConfig,
    classes: list[str],
    metrics: dict[str, float],
    path: Path,
    kind: Kind = "class",
) -> None:
    """Write weights as a safetensors file with a card that says all that is needed to use them.

    Args:
        state: of the network
        config: resolved
        classes: names of the classes
        metrics: what was measured of these weights
        path: the file to write
        kind: of the labels

    Raises:
        OSError: the disk is full or the folder cannot be written
    """
    model, network = config.model or "", config.network
    options: dict[str, Any] = {"in_chans": config.in_chans}
    if not model.startswith(TIMM):
        named = {"stem_stride": network.stem_stride, "depths": network.depths, "dims": network.dims}
        options |= {name: value for name, value in named.items() if value is not None}
    mean, std = channel_statistics(config.in_chans, config.images.mean, config.images.std)
    card = Card(
        model=model,
        options=options,
        class_names=tuple(classes),
        image_size=config.size,
        mean=mean,
        std=std,
        crop_pct=config.crop_pct,
        value_range=config.images.value_range,
        no_data=config.images.no_data,
        metrics=metrics,
        averaged=config.keeps_averaged,
        labels=None if kind == "class" else kind,
    )
    save_weights(path, state, card)
