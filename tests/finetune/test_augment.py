"""Augmentation: what timm gives, on whatever images, from seeds alone."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from fcmae.core.errors import UserError
from fcmae.data.config import ImagesConfig
from fcmae.data.dataset import ImageDataset, seeded
from fcmae.data.images import ArraySource
from fcmae.data.transforms import training_crop
from fcmae.finetune.augment import auto_augment, mixing, random_erasing, training_transform
from fcmae.finetune.config import AugmentConfig

MEAN = (0.5, 0.4, 0.3)


def photo(channels: int, size: int = 40) -> torch.Tensor:
    ramp = torch.arange(size * size * channels) * 251 % 256
    return ramp.reshape(channels, size, size).to(torch.uint8)


@pytest.mark.parametrize("policy", ["rand-m6-mstd0.5-inc1", "augmix-m5", "original-mstd0.5", "3a"])
def test_policies_are_those_of_timm_s_training_transform(policy: str) -> None:
    ours = auto_augment(policy, (40, 40), MEAN)
    options: dict[str, Any] = {
        "auto_augment": policy,
        "interpolation": "bicubic",
        "mean": MEAN,
        "color_jitter": None,
    }
    _, theirs, _ = create_transform(40, is_training=True, separate=True, **options)
    image = photo(3)
    for seed in range(60):
        with seeded(seed):
            left = ours(image)
        with seeded(seed):
            right = theirs(Image.fromarray(image.permute(1, 2, 0).numpy()))
        assert torch.equal(left.permute(1, 2, 0), torch.from_numpy(np.array(right)))


@pytest.mark.parametrize(
    "policy", ["rand-m10-n4-mstd101-inc1", "rand-m1-n4", "original-mstd0.5", "v0", "3a", "augmix-m5"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_no_policy_breaks_an_image(policy: str, channels: int) -> None:
    transform = auto_augment(policy, (40, 40), MEAN[:channels])
    for seed in range(40):
        with seeded(seed):
            result = transform(photo(channels))
        assert (result.dtype, result.shape) == (torch.uint8, (channels, 40, 40))


def test_a_policy_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match="rand-x9"):
        auto_augment("rand-x9", (40, 40), MEAN)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original-mstd0.5", "v0", "augmix-m5", None])
def test_workers_can_be_spawned(policy: str | None) -> None:
    augment = AugmentConfig(color_jitter=0.4, auto_augment=policy)
    crop = training_crop((24, 16), 3, ImagesConfig())
    dataset = ImageDataset(
        ArraySource(photo(3)[None]), training_transform((24, 16), ImagesConfig(), augment, MEAN), 1, crop
    )
    there = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(there[3, 0].data, dataset[3, 0].data)


def test_the_same_seed_gives_the_same_image_and_another_another() -> None:
    augment = AugmentConfig(color_jitter=0.4)
    transform = training_transform((24, 16), ImagesConfig(), augment, MEAN)
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed):
            drawn.append(transform(photo(3)))
    assert drawn[0].shape == photo(3).shape
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erasing_fills_a_rectangle_in_its_mode(mode: str) -> None:
    erase = random_erasing(AugmentConfig(erase=1.0, erase_mode=mode), torch.device("cpu"))  # type: ignore[arg-type]
    assert erase is not None
    with seeded(3):
        image = erase(torch.full((1, 3, 32, 32), 9.0))[0]
    hole = (image != 9).any(0)
    rows, columns = hole.any(1), hole.any(0)
    assert 0 < hole.sum() == rows.sum() * columns.sum()  # a full rectangle
    values = image[:, hole]
    distinct = len(values[0].unique())
    assert {
        "const": distinct == 1 and (values == 0).all(),
        "rand": distinct == 1,
        "pixel": distinct == hole.sum() > 1,
    }[mode]
    assert random_erasing(AugmentConfig(erase=0.0), torch.device("cpu")) is None


def test_mixing_gives_targets_that_match_the_pixels() -> None:
    mix = mixing(AugmentConfig(mixup=0.8, label_smoothing=0.0), num_classes=4)
    assert mix is not None
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 2, 2).clone()
    with seeded(0):
        mixed, targets = mix(images, torch.arange(4))
    # image i has the value i and the class i, so that a target's mean class is the image's value
    assert torch.allclose(targets @ torch.arange(4.0), mixed[:, 0, 0, 0])
    assert mixing(AugmentConfig(), num_classes=4) is None
