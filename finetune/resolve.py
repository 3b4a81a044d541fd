"""Settings completed from what the weights to start from say about themselves."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcmae.core.errors import UserError
from fcmae.data.names import full_name
from fcmae.finetune.config import POLICY_CHANNELS, RAND_AUGMENT, AugmentConfig, FinetuneConfig
from fcmae.models import header

logger = logging.getLogger(__name__)

FROM_INIT = ("in_chans", "stem_stride", "depths", "dims")


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """The settings with model, network, image size and statistics taken from --init, or their defaults.

    Raises:
        UserError: no such weights, or weights of another model than --model
    """
    known = describe_init(Path(config.init).expanduser()) if config.init else {}
    if known and names_another(config, known["model"]):
        raise UserError(
            f"--init {config.init} holds {known['model']}, not {config.model}: leave --model out, "
            "or give other weights"
        )
    options = known.get("options", {})
    open_options = {
        name: options[name] for name in FROM_INIT if name in options and getattr(config.network, name) is None
    }
    network = replace(config.network, **open_options)
    network.in_chans = network.in_chans or 3
    network.stem_stride = network.stem_stride or 4
    alike = network.in_chans == options.get("in_chans")  # the statistics are of as many channels
    images = replace(
        config.images,
        mean=config.images.mean or (known.get("mean") if alike else None),
        std=config.images.std or (known.get("std") if alike else None),
        value_range=config.images.value_range or known.get("value_range"),
    )
    return replace(
        config,
        data=full_name(config.data),
        model=config.model or known.get("model") or "convnextv2_atto",
        image_size=config.image_size or known.get("image_size") or 224,
        network=network,
        augment=settle_policy(config.augment, network.in_chans),
        images=images,
    )


def settle_policy(augment: AugmentConfig, channels: int) -> AugmentConfig:
    """The augmentation with the policy that auto means for images of so many channels."""
    if augment.auto_augment != "auto":
        return augment
    if channels in POLICY_CHANNELS:
        return replace(augment, auto_augment=RAND_AUGMENT)
    logger.warning("images of %d channels are trained on without RandAugment, which is for 1 or 3", channels)
    return replace(augment, auto_augment=None)


def names_another(config: FinetuneConfig, known: str) -> bool:
    """Whether --model is not the model of the weights; depths and dims, where given, say the size."""
    if config.model is None:
        return False
    if config.network.depths and config.network.dims:
        return config.model.split("_")[0] != known.split("_")[0]
    return config.model != known


def describe_init(path: Path) -> dict[str, Any]:
    """What weights say about themselves: model, options, image_size, mean, std, value_range, where they do.

    Raises:
        UserError: no such file, or none that holds weights
    """
    known = read_header(path)
    if not known:
        from fcmae.finetune.network import read_weights  # imports torch

        weights = read_weights(path)
        known = {"model": weights.model, "options": weights.options}
    return known


def read_header(weights: Path) -> dict[str, Any]:
    """What weights, as a run folder or a file, say about themselves; empty for those of others.

    Raises:
        UserError: no such weights, damaged ones, or ones of a newer version
    """
    try:
        return header.read_header(weights)
    except ValueError as error:
        raise UserError(f"{weights}: {error}") from None


def check_image_size(size: tuple[int, int], stride: int, remedy: str = "") -> None:
    """Refuse a height and width that the network's stride does not divide.

    Args:
        size: (height, width)
        stride: pixels to a position of the network's last map
        remedy: what else to do about it than to choose another size

    Raises:
        UserError: see above
    """
    height, width = size
    if height < 1 or width < 1 or height % stride or width % stride:
        raise UserError(
            f"image size {height} x {width} is not a multiple of the network's stride {stride}: "
            f"choose multiples of {stride}{remedy}"
        )
