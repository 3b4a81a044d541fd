"""Networks to train: ours, with weights from anywhere, or one of timm's."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcmae.core.errors import UserError
from fcmae.finetune.config import TIMM, FinetuneConfig
from fcmae.models.convnext import ConvNeXt, create_model
from fcmae.models.weights import Weights, load_into, load_weights, match_classes

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
