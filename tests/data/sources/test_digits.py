"""The built-in digits: size, range, the picture itself, and the split."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fcmae.data.sources import SourceOptions, open_splits
from fcmae.data.sources.digits import NUM_DIGITS, load_digits_images


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_types(channels: int) -> None:
    images, labels = load_digits_images(32, channels)
    assert images.shape == (NUM_DIGITS, channels, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.shape == (1797,)
    assert labels.unique().tolist() == list(range(10))
    assert torch.equal(images, images[:, :1].expand_as(images))


def test_at_their_own_size_the_digits_are_scikit_learns() -> None:
    images, _ = load_digits_images(8)
    original = torch.from_numpy(load_digits().images).to(torch.float32)
    torch.testing.assert_close(images[:, 0] / 255 * 16, original, rtol=0, atol=16 / 255)


def test_enlarged_digits_keep_their_mean_brightness() -> None:
    small, _ = load_digits_images(8)
    large, _ = load_digits_images(64)
    difference = (large.float() - small.float().mean(dim=(1, 2, 3), keepdim=True)).mean(dim=(1, 2, 3))
    assert difference.abs().max() < 8


def test_the_digits_are_split_without_overlap() -> None:
    train, val = open_splits("digits", SourceOptions(channels=1, size=8))
    assert len(train.labels) + len(val.labels) == NUM_DIGITS
    names = [data.source.name(i) for data in (train, val) for i in range(len(data.labels))]
    assert len(set(names)) == NUM_DIGITS
    fractions = np.bincount(val.labels) / (np.bincount(train.labels) + np.bincount(val.labels))
    assert fractions == pytest.approx(0.2, abs=0.01)
