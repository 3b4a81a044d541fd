"""Mean and standard deviation of channels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.data.config import ImagesConfig
from fcmae.data.images import ArraySource
from fcmae.data.statistics import ChannelStatistics, Moments, measure_statistics, settle_statistics
from fcmae.data.transforms import IMAGENET_MEAN, IMAGENET_STD

IMAGES = torch.randint(0, 256, (40, 2, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_moments_are_those_of_numpy() -> None:
    moments = Moments(2)
    moments.add(IMAGES[:30])
    for image in IMAGES[30:]:
        moments.add(image)
    found = moments.statistics()
    pixels = IMAGES.numpy() / 255
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-3)
    assert found.std == pytest.approx(pixels.std((0, 2, 3)), rel=1e-3)
    assert found.images == 40


def test_values_that_are_not_there_do_not_count() -> None:
    there = torch.rand(40, 2, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.7
    moments, other = Moments(2), Moments(2)
    moments.add(torch.cat([IMAGES, there * torch.tensor(255, dtype=torch.uint8)], 1))
    garbage = torch.where(there, IMAGES, 255 - IMAGES)
    other.add(torch.cat([garbage, there * torch.tensor(255, dtype=torch.uint8)], 1))
    assert moments.statistics() == other.statistics()
    kept = [IMAGES[:, channel][there[:, channel]].numpy() / 255 for channel in range(2)]
    assert moments.statistics().mean == pytest.approx([values.mean() for values in kept], rel=1e-3)
    assert moments.statistics().std == pytest.approx([values.std() for values in kept], rel=1e-3)


def test_a_channel_without_any_value_is_refused() -> None:
    moments = Moments(2)
    image = torch.full((4, 8, 8), 255, dtype=torch.uint8)
    image[3] = 0
    moments.add(image)
    with pytest.raises(UserError, match="channel 2"):
        moments.statistics()


def test_a_channel_that_is_the_same_everywhere_can_be_divided_by() -> None:
    moments = Moments(1)
    moments.add(torch.full((1, 8, 8), 51, dtype=torch.uint8))
    assert moments.statistics().mean == (0.2,)
    assert moments.statistics().std == pytest.approx((1 / 255,), rel=1e-3)


def test_a_sample_from_all_over_the_source_is_measured() -> None:
    dark_then_bright = torch.cat([torch.zeros(50, 1, 8, 8), torch.full((50, 1, 8, 8), 255)]).to(torch.uint8)
    found = measure_statistics(ArraySource(dark_then_bright), 1, (8, 8), sample=10)
    assert (found.mean, found.std, found.images) == ((0.5,), (0.5,), 10)
    whole = measure_statistics(ArraySource(dark_then_bright), 1, (8, 8))
    assert whole.images == 100
    assert np.isclose(whole.mean[0], 0.5)


def test_what_is_measured_is_kept(tmp_path: Path) -> None:
    kept, measured = tmp_path / "kept.json", ChannelStatistics((0.25, 0.5), (0.125, 0.0625), 7)
    given = ImagesConfig(std=(1.0, 2.0))
    assert settle_statistics(ImagesConfig(), 2, kept) == ((0.5, 0.5), (0.25, 0.25))
    assert settle_statistics(given, 2, kept, lambda: measured) == (measured.mean, (1.0, 2.0))
    assert settle_statistics(ImagesConfig(), 2, kept) == (measured.mean, measured.std)
    other = ChannelStatistics((0.0, 0.0), (1.0, 1.0), 7)
    assert settle_statistics(ImagesConfig(), 2, kept, lambda: other) == (measured.mean, measured.std)
    kept.write_text("{}")
    with pytest.raises(UserError, match=str(kept)):
        settle_statistics(ImagesConfig(), 2, kept)


def test_three_channels_are_normalised_as_imagenets(tmp_path: Path) -> None:
    other = ChannelStatistics((0.0,) * 3, (1.0,) * 3, 7)
    found = settle_statistics(ImagesConfig(), 3, tmp_path / "kept.json", lambda: other)
    assert found == (IMAGENET_MEAN, IMAGENET_STD)
    assert not (tmp_path / "kept.json").exists()
