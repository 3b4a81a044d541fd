"""Augmentation on the device: torchvision's changes, each image by its own numbers, gaps left alone.

Shapes: B batch, C channels, H W pixels.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as F

from fcmae.core.errors import UserError
from fcmae.data.dataset import seeded
from fcmae.pretraining.augment import RADIUS, SIGMA, Augmentation, Drawn
from fcmae.pretraining.config import PretrainAugmentConfig

ALL = PretrainAugmentConfig(color_jitter=0.4, grey=0.3, blur=0.5, channel_drop=0.3)
BANDS = PretrainAugmentConfig(color_jitter=0.4, blur=0.5, channel_drop=0.3)


def pictures(channels: int, batch: int = 6) -> Tensor:
    """Smooth, and far from black and white."""
    noise = torch.rand(batch, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    pixels: Tensor = F.resize(noise, [40, 48])
    return (pixels * 120 + 60).to(torch.uint8)


def draw(augmentation: Augmentation, batch: int = 6, seed: int = 0) -> Drawn:
    draws = []
    for number in range(batch):
        with seeded(seed, number):
            draws.append(augmentation.draw())
    collated: Drawn = default_collate(draws)
    return collated


def test_off_it_draws_nothing() -> None:
    state = torch.get_rng_state()
    assert Augmentation(PretrainAugmentConfig(), 3).draw() == {}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_brightness_contrast_and_saturation_are_torchvisions(channels: int) -> None:
    augmentation = Augmentation(PretrainAugmentConfig(color_jitter=0.5), channels)
    images, drawn = pictures(channels), draw(augmentation)
    found, there = augmentation.apply(images, None, drawn)
    assert there is None
    for number, image in enumerate(images.float() / 255):
        bands = [image] if channels == 3 else image.split(1)
        expected = []
        for band, pixels in enumerate(bands):
            pixels = F.adjust_brightness(pixels, drawn["brightness"][number, band].item())
            pixels = F.adjust_contrast(pixels, drawn["contrast"][number, band].item())
            if channels == 3:
                pixels = F.adjust_saturation(pixels, drawn["saturation"][number, 0].item())
            expected.append(pixels)
        torch.testing.assert_close(found[number] / 255, torch.cat(expected), rtol=0, atol=2e-3)
    factors = torch.cat([numbers.flatten() for numbers in draw(augmentation, 500).values()])
    assert 0.5 <= factors.min() < 0.52
    assert 1.48 < factors.max() <= 1.5


def test_grey_is_grey_as_often_as_asked() -> None:
    augmentation = Augmentation(PretrainAugmentConfig(grey=0.3), 3)
    images, drawn = pictures(3), draw(augmentation)
    found, _ = augmentation.apply(images, None, drawn)
    for number, image in enumerate(images.float()):
        grey = F.rgb_to_grayscale(image, 3) if drawn["grey"][number] else image
        torch.testing.assert_close(found[number], grey, rtol=0, atol=0.1)
    assert draw(augmentation, 1000)["grey"].mean() == pytest.approx(0.3, abs=0.05)


def test_blur_is_torchvisions() -> None:
    augmentation = Augmentation(PretrainAugmentConfig(blur=0.5), 2)
    images, drawn = pictures(2), draw(augmentation)
    assert 0 < (drawn["sigma"] > 0.1).sum() < 6
    found, _ = augmentation.apply(images, None, drawn)
    inside = slice(RADIUS, -RADIUS)
    for number, image in enumerate(images.float()):
        sigma = drawn["sigma"][number].item()
        expected = F.gaussian_blur(image, [2 * RADIUS + 1] * 2, [sigma, sigma]) if sigma > SIGMA[0] else image
        torch.testing.assert_close(found[number, :, inside, inside], expected[:, inside, inside])
        if sigma < SIGMA[0]:
            assert torch.equal(found[number], image)


def test_a_dropped_channel_has_no_data() -> None:
    augmentation = Augmentation(PretrainAugmentConfig(channel_drop=0.7), 4)
    images, drawn = pictures(4, 200), draw(augmentation, 200)
    found, there = augmentation.apply(images, None, drawn)
    assert there is not None
    assert torch.equal(found, images.float())
    assert torch.equal(there, drawn["kept"][:, :, None, None].expand_as(there))
    kept = drawn["kept"].sum(1)
    assert kept.min() == 1
    assert drawn["kept"].float().mean() == pytest.approx(0.25 + 0.75 * 0.3, abs=0.05)


@pytest.mark.parametrize(("channels", "config"), [(3, ALL), (5, BANDS)])
def test_what_lies_where_no_data_is_changes_no_bit(channels: int, config: PretrainAugmentConfig) -> None:
    augmentation, images = Augmentation(config, channels), pictures(channels)
    there = torch.rand(images.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    there[:, :, :15] = False
    drawn = draw(augmentation)
    (found, left), (other, again) = (
        augmentation.apply(images.masked_fill(~there, garbage), there, drawn) for garbage in (0, 255)
    )
    assert left is not None
    assert again is not None
    assert torch.equal(left, again)
    assert torch.equal(left, there & drawn["kept"][:, :, None, None])
    assert torch.equal(found[left], other[left])


def test_blur_smears_no_gap_into_data() -> None:
    augmentation = Augmentation(PretrainAugmentConfig(blur=1.0), 1)
    there = torch.rand(6, 1, 40, 48, generator=torch.Generator().manual_seed(1)) < 0.5
    images = torch.where(there, 200, 0).to(torch.uint8)
    found, _ = augmentation.apply(images, there, draw(augmentation))
    torch.testing.assert_close(found[there], torch.full_like(found[there], 200.0))


@pytest.mark.parametrize(("channels", "config"), [(3, ALL), (5, BANDS)])
def test_an_image_is_changed_by_its_own_numbers_alone(channels: int, config: PretrainAugmentConfig) -> None:
    augmentation, images, drawn = Augmentation(config, channels), pictures(channels), None
    drawn = draw(augmentation)
    found, there = augmentation.apply(images, None, drawn)
    assert there is not None
    for number in range(len(images)):
        own = {name: numbers[number : number + 1] for name, numbers in drawn.items()}
        alone, left = augmentation.apply(images[number : number + 1], None, own)
        torch.testing.assert_close(alone[0], found[number])
        assert left is not None
        assert torch.equal(left[0], there[number])


@pytest.mark.parametrize(
    ("channels", "setting"),
    [
        (3, {"color_jitter": 1.5}),
        (3, {"blur": -0.1}),
        (1, {"grey": 0.1}),
        (5, {"grey": 0.1}),
        (1, {"channel_drop": 0.1}),
    ],
)
def test_what_cannot_be_is_refused_by_name(channels: int, setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"augment.{next(iter(setting))}"):
        PretrainAugmentConfig(**setting).check(channels)
