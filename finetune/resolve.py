"""Settings completed from what the weights to start from say about themselves."""

import logging
from dataclasses import replace
from pathlib import Path

from fcmae.core.errors import UserError
from fcmae.data.sources import find_opener
from fcmae.finetune.config import (
    DEFAULT_IMAGE_SIZE,
    POLICY_CHANNELS,
    RAND_AUGMENT,
    AugmentConfig,
    FinetuneConfig,
)
from fcmae.models.card import Card, read_card
from fcmae.models.sizes import SIZES

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "convnextv2_atto"
FROM_INIT = ("in_chans", "stem_stride", "depths", "dims")


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """Return the settings with model, network, image size and statistics from --init, or their defaults.

    Raises:
        UserError: no such weights, or weights of another model than --model
    """
    card = Card(model=DEFAULT_MODEL, options={})
    if config.init:
        card = describe_init(Path(config.init).expanduser())
        if names_another(config, card.model):
            raise UserError(
                f"--init {config.init} holds {card.model}, not {config.model}: leave --model out, "
                "or give other weights"
            )
    open_options = {
        name: card.options[name]
        for name in FROM_INIT
        if name in card.options and getattr(config.network, name) is None
    }
    network = replace(config.network, **open_options)
    network.in_chans = network.in_chans or 3
    network.stem_stride = network.stem_stride or 4
    alike = network.in_chans == card.options.get("in_chans")  # the statistics are of as many channels
    images = replace(
        config.images,
        mean=config.images.mean or (card.mean if alike else None),
        std=config.images.std or (card.std if alike else None),
        value_range=config.images.value_range or card.value_range,
        no_data=card.no_data if config.images.no_data is None else config.images.no_data,
    )
    return replace(
        config,
        data=find_opener(config.data).setting,
        model=config.model or card.model,
        image_size=config.image_size or card.image_size or DEFAULT_IMAGE_SIZE,
        network=network,
        augment=settle_policy(config.augment, network.in_chans),
        images=images,
    )


def settle_policy(augment: AugmentConfig, channels: int) -> AugmentConfig:
    """Return the augmentation with the policy that auto means for images of so many channels."""
    if augment.auto_augment != "auto":
        return augment
    if channels in POLICY_CHANNELS:
        return replace(augment, auto_augment=RAND_AUGMENT)
    logger.warning("images of %d channels are trained on without RandAugment, which is for 1 or 3", channels)
    return replace(augment, auto_augment=None)


def names_another(config: FinetuneConfig, known: str) -> bool:
    """Tell whether --model is not the model of the weights; depths and dims, where given, say the size."""
    if config.model is None:
        return False
    asked, found = SIZES.get(config.model), SIZES.get(known)  # None is a network of timm's
    if asked and found and config.network.depths and config.network.dims:
        return asked.layer_scale != found.layer_scale
    return config.model != known


def describe_init(path: Path) -> Card:
    """Return what is known of weights: what their file says, or else what their tensors tell.

    Raises:
        UserError: no such file, or none that holds weights
    """
    card = read_card(path)
    if card is None:
        from fcmae.models.weights import load_weights  # imports torch

        card = load_weights(path).card
    return card
