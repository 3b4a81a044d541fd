"""Augmentation for training on labels: torchvision's crops and flips, and timm's colours, erasing and mixing.

Shapes: B batch, C channels, H W pixels, K classes.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from fcmae.core.errors import UserError
from fcmae.data.config import ImagesConfig
from fcmae.data.transforms import Transform
from fcmae.data.validity import fill_gaps
from fcmae.finetune.config import AugmentConfig

if TYPE_CHECKING:
    from timm.data import Mixup
    from timm.data.random_erasing import RandomErasing


def training_transform(
    size: tuple[int, int], images: ImagesConfig, augment: AugmentConfig, mean: tuple[float, ...]
) -> Transform:
    """Make what follows crop and flips: RandAugment or its kin and colour jitter, in timm's order.

    Args:
        size: (height, width) of the images
        images, augment: the settings
        mean: of pixels in 0..1; fills what a rotation uncovers, and values that are not there

    Returns:
        a function from uint8 (C, H, W) to the same that draws from the global generators
    """
    steps: list[nn.Module] = [nn.Identity()]
    if images.no_data is not None:
        steps.append(v2.Lambda(partial(fill_gaps, mean=mean)))
    if augment.auto_augment:
        steps.append(v2.Lambda(auto_augment(augment.auto_augment, size, mean)))
    if augment.color_jitter > 0:
        strength = augment.color_jitter
        steps.append(v2.ColorJitter(strength, strength, strength))
    transform: Transform = v2.Compose(steps)
    return transform


def auto_augment(policy: str, size: tuple[int, int], mean: tuple[float, ...]) -> Transform:
    """Make RandAugment (arXiv 1909.13719), AutoAugment (1805.09501) or AugMix (1912.02781) by timm's string.

    The policy is the one of `timm.data.create_transform(..., interpolation="bicubic")`, as in the code
    published with ConvNeXt V2. timm augments Pillow images in colour, so grey ones are turned to colour and
    back.

    Args:
        policy: timm's string
        size: (height, width) of the images
        mean: of pixels in 0..1; fills what a rotation uncovers

    Raises:
        UserError: timm does not understand the string
    """
    from timm.data import auto_augment as timm_policies

    make = {"rand": timm_policies.rand_augment_transform, "augmix": timm_policies.augment_and_mix_transform}
    filling = tuple(round(255 * value) for value in (mean if len(mean) == 3 else mean * 3))
    kind = policy.split("-")[0]
    hparams: dict[str, Any] = {
        "translate_const": int(min(size) * 0.45),
        "img_mean": filling,
        "interpolation": Image.Resampling.BICUBIC,  # without it timm draws bilinear or bicubic at random
    }
    if kind == "augmix":
        hparams["translate_pct"] = 0.3
    try:
        apply = make.get(kind, timm_policies.auto_augment_transform)(policy, hparams)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(f"augment.auto_augment {policy!r}: timm does not understand it ({error})") from error

    ops = apply.ops if hasattr(apply, "ops") else itertools.chain.from_iterable(apply.policy)
    for op in ops:
        if op.aug_fn is timm_policies.posterize:
            op.aug_fn = posterize
    return partial(_apply_in_colour, policy=apply)


def _apply_in_colour(image: Tensor, policy: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a policy for Pillow images to uint8 (C, H, W) of 1 or 3 channels."""
    mode = "RGB" if len(image) == 3 else "L"
    augmented: Tensor = F.pil_to_tensor(policy(F.to_pil_image(image).convert("RGB")).convert(mode))
    return augmented


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Posterize as timm does, with one bit where timm's scale ends at none, which Pillow refuses."""
    return ImageOps.posterize(image, min(max(bits, 1), 8))


def random_erasing(augment: AugmentConfig, device: torch.device) -> "RandomErasing | None":
    """Make timm's random erasing (arXiv 1708.04896) of normalised images (B, C, H, W), in place, if any."""
    from timm.data.random_erasing import RandomErasing

    if augment.erase <= 0:
        return None
    return RandomErasing(
        augment.erase, mode=augment.erase_mode, max_count=augment.erase_count, device=str(device)
    )


def mixing(augment: AugmentConfig, num_classes: int) -> "Mixup | None":
    """Make timm's mixup (arXiv 1710.09412) and CutMix (1905.04899), if any: labels (B,) to targets (B, K)."""
    from timm.data import Mixup

    if not augment.mixes:
        return None
    return Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mix_prob,
        switch_prob=augment.mix_switch,
        mode=augment.mix_mode,
        label_smoothing=augment.label_smoothing,
        num_classes=num_classes,
    )
