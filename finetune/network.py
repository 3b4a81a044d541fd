"""Networks to train and to use: ours, with weights from anywhere, or one of timm's.

Shapes: B batch, D features of an image.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcmae.core.errors import UserError
from fcmae.data.config import CROP_PCT
from fcmae.data.dataset import choose_workers
from fcmae.data.once import Reader
from fcmae.data.transforms import channel_statistics
from fcmae.finetune.config import DEFAULT_IMAGE_SIZE, TIMM, FinetuneConfig, pair
from fcmae.models.card import Card, read_card
from fcmae.models.convnext import ConvNeXt, create_model
from fcmae.models.geometry import check_image_size
from fcmae.models.storage import read_tensors, save_weights
from fcmae.models.weights import (
    Weights,
    compare_states,
    create_model_from,
    load_into,
    load_weights,
    match_classes,
)

logger = logging.getLogger(__name__)

REFUSALS = (AssertionError, AttributeError, RuntimeError, TypeError, ValueError)  # what timm's networks raise


def build_network(config: FinetuneConfig, classes: list[str]) -> nn.Module:
    """Build the network to train, with the weights of --init in it and a head for these classes.

    Where the weights name the classes of their head, a class of the same name keeps its row.

    Args:
        config: resolved, as `fcmae.finetune.resolve.resolve` gives it
        classes: names of the classes

    Raises:
        UserError: weights that do not fit, or a name that timm does not know
    """
    model, network = config.model or "", config.network
    if model.startswith(TIMM):
        return create_timm(
            model,
            len(classes),
            config.size,
            in_chans=config.in_chans,
            drop_path_rate=network.drop_path_rate,
            grad_checkpointing=network.grad_checkpointing,
        )
    built = create_model(
        model,
        num_classes=len(classes),
        in_chans=config.in_chans,
        stem_stride=network.stem_stride or 4,
        depths=network.depths,
        dims=network.dims,
        drop_path_rate=network.drop_path_rate,
        head_init_scale=network.head_init_scale,
        grad_checkpointing=network.grad_checkpointing,
    )
    if config.init:
        weights = load_weights(Path(config.init).expanduser())
        try:
            names = head_classes(weights, config.init_classes)
            rows = match_classes(names, classes) if names else None
            load_into(built, weights, class_rows=rows)
        except ValueError as error:
            raise UserError(f"--init {config.init}: {error}") from error
    freeze_stages(built, network.freeze)
    return built


def head_classes(weights: Weights, listed: str | None) -> Sequence[str]:
    """Return the names of the classes of the weights' head, empty where they are unknown.

    Args:
        weights: whose card may name them
        listed: a file of names, one a line, which goes before the card

    Raises:
        UserError: the file names another number of classes than the head has
    """
    if listed is None:
        return (weights.card.class_names or ()) if weights.num_classes else ()
    names = Path(listed).expanduser().read_text(encoding="utf-8").split("\n")
    names = [name.strip() for name in names if name.strip()]
    if len(names) != weights.num_classes:
        raise UserError(f"{listed} names {len(names)} classes, the head has {weights.num_classes}")
    return names


def freeze_stages(model: ConvNeXt, stages: int) -> None:
    """Keep the weights of the first stages, with the stem and the downsamplings before them, as they are.

    Their blocks drop no paths: features that nothing learns are the same in training as in evaluation.
    """
    for downsample, stage in list(zip(model.downsample_layers, model.stages, strict=True))[:stages]:
        downsample.requires_grad_(False)
        stage.requires_grad_(False)
        for block in stage.children():
            block.drop_path = 0.0  # type: ignore[assignment]


def create_timm(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
) -> nn.Module:
    """Build a network of timm's from scratch, and show it a black image; one without drop path goes without.

    Args:
        name: timm:NAME
        num_classes: rows of the head
        image_size: (height, width)
        in_chans: channels of the images
        drop_path_rate: drop path of the last block
        grad_checkpointing: compute activations again for the gradient

    Raises:
        UserError: timm does not know the name, cannot checkpoint that network's activations, or the network
            does not take images of this size
    """
    import timm

    options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate > 0 else {}
    create = partial(timm.create_model, name.removeprefix(TIMM), num_classes=num_classes, in_chans=in_chans)
    try:
        try:
            model: nn.Module = create(**options)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            logger.warning("model %s has no drop path, and is trained without", name)
            model = create()
        if grad_checkpointing:
            model.set_grad_checkpointing()  # type: ignore[operator]
    except REFUSALS as error:
        raise UserError(f"model {name}: timm refuses ({' '.join(str(error).split())})") from error
    height, width = image_size
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, in_chans, height, width))
    except REFUSALS as error:
        raise UserError(
            f"model {name} does not take images of {height} x {width} ({' '.join(str(error).split())}): "
            "choose another --image-size"
        ) from error
    return model.train()


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

    def reader(self, batch_size: int, workers: int | None, device: torch.device) -> Reader:
        """Return what prepares images for this network; workers are chosen where none is given."""
        card, workers = self.card, choose_workers(device, workers)
        return Reader(card.image_size, card.crop_pct, card.mean, card.std, batch_size, workers, device)


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
) -> None:
    """Write weights as a safetensors file with a card that says all that is needed to use them.

    Args:
        state: of the network
        config: resolved
        classes: names of the classes
        metrics: what was measured of these weights
        path: the file to write

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
        metrics=metrics,
        averaged=config.keeps_averaged,
    )
    save_weights(path, state, card)
