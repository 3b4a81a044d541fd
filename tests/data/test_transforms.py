"""Transforms: geometry against Pillow and torchvision, number of channels, normalisation."""

import pickle
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from fcmae.core.errors import UserError
from fcmae.data.dataset import seeded
from fcmae.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RandomCropFlip,
    _covering_size,
    _resize_centre,
    channel_statistics,
    resize_center_crop,
    to_float,
)


def picture(channels: int, height: int, width: int) -> torch.Tensor:
    """A smooth image without black or white."""
    rough = torch.rand(1, channels, 6, 8, generator=torch.Generator().manual_seed(0)) * 200 + 20
    return torch.nn.functional.interpolate(rough, (height, width), mode="bilinear")[0].to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_random_crops_have_the_size_and_the_channels(channels: int) -> None:
    image = RandomCropFlip((32, 48))(picture(channels, 64, 80))
    assert image.shape == (channels, 32, 48)
    assert image.dtype == torch.uint8


def test_a_random_crop_is_pillows_bicubic() -> None:
    image = picture(3, 100, 120)
    with seeded(1):
        ours = RandomCropFlip((64, 64), hflip=False)(image)
    with seeded(1):
        box = v2.RandomResizedCrop((64, 64), scale=(0.2, 1.0)).make_params([image])
    top, left, height, width = (box[side] for side in ("top", "left", "height", "width"))
    crop = Image.fromarray(image[:, top : top + height, left : left + width].permute(1, 2, 0).numpy())
    pillow = torch.from_numpy(np.array(crop.resize((64, 64), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    torch.testing.assert_close(ours, pillow, rtol=0, atol=1)


@pytest.mark.parametrize(
    ("hflip", "vflip", "turns", "orders"),
    [
        (False, False, False, {"0123"}),
        (True, False, False, {"0123", "1032"}),
        (False, True, False, {"0123", "2301"}),
        (True, True, False, {"0123", "1032", "2301", "3210"}),
        (False, False, True, {"0123", "1302", "3210", "2031"}),
    ],
)
def test_flips_and_turns_are_drawn_where_asked(
    hflip: bool, vflip: bool, turns: bool, orders: set[str]
) -> None:
    image = torch.arange(4, dtype=torch.uint8).view(1, 2, 2)
    transform = RandomCropFlip((2, 2), scale=(1.0, 1.0), hflip=hflip, vflip=vflip, turns=turns)
    seen = set()
    for key in range(40):
        with seeded(key):
            seen.add("".join(str(value) for value in transform(image).flatten().tolist()))
    assert seen == orders


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (37, 211), (256, 256)])
@pytest.mark.parametrize("size", [224, 64, 32])
def test_evaluation_is_torchvisions_resize_and_crop(size: int, shape: tuple[int, int]) -> None:
    image = picture(3, *shape)
    resize = v2.Resize(int(size / 0.875), interpolation=InterpolationMode.BICUBIC, antialias=True)
    expected = v2.CenterCrop(size)(resize(image))
    assert torch.equal(resize_center_crop((size, size))(image), expected)


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (37, 211), (211, 37)])
@pytest.mark.parametrize("size", [(96, 64), (64, 96)])
def test_evaluation_covers_a_crop_that_is_not_square(size: tuple[int, int], shape: tuple[int, int]) -> None:
    image = resize_center_crop(size)(picture(3, *shape))
    assert image.shape == (3, *size)
    assert image.min() > 0  # a crop beyond the image's edge would be black


@pytest.mark.parametrize("size", [(224, 224), (96, 64)])
@pytest.mark.parametrize("shape", [(9, 100), (100, 9), (300, 4000), (3000, 500), (500, 2900), (1, 700)])
def test_the_centre_of_thin_images_is_that_of_the_whole(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    image = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    covered = _covering_size(*shape, (int(size[0] / 0.875), int(size[1] / 0.875)))
    whole = v2.Resize(covered, interpolation=InterpolationMode.BICUBIC, antialias=True)(image)
    expected = v2.CenterCrop(size)(whole)
    for found in (resize_center_crop(size)(image), _resize_centre(image, covered, size)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1)


@pytest.mark.parametrize("shape", [(1, 20000), (20000, 1)])
def test_thin_images_take_no_time_and_memory(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    started = time.process_time()
    assert resize_center_crop((224, 224))(image).shape == (3, 224, 224)
    assert time.process_time() - started < 1  # resized whole, it took 20 seconds


@pytest.mark.parametrize("size", [224, 384])
def test_evaluation_can_be_pickled_for_workers_that_are_spawned(size: int) -> None:
    transform = resize_center_crop((size, size))
    image = picture(3, 300, 400)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(image), transform(image))


def test_from_384_on_evaluation_keeps_the_corners() -> None:
    image = torch.zeros(1, 200, 240, dtype=torch.uint8)
    image[:, :10, :10] = 255
    assert resize_center_crop((384, 384))(image)[0, 0, 0] == 255
    assert resize_center_crop((352, 352))(image)[0, 0, 0] == 0


def test_default_statistics_normalise_as_imagenets() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    expected = v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)(images / 255)
    torch.testing.assert_close(to_float(images, *channel_statistics(3)), expected)


def test_given_statistics_are_used() -> None:
    mean, std = channel_statistics(2, mean=(0.0, 1.0), std=(1.0, 0.5))
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    assert to_float(images, mean, std).flatten().tolist() == [0.0, 0.0]
    assert to_float(255 - images, mean, std).flatten().tolist() == pytest.approx([1.0, -2.0])


def test_normalising_leaves_the_batch_itself_alone() -> None:
    images = torch.full((1, 1, 2, 2), 9, dtype=torch.uint8)
    to_float(images, *channel_statistics(1))
    assert (images == 9).all()


def test_statistics_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"mean .*: give 4 values"):
        channel_statistics(4, mean=(0.5, 0.5, 0.5))
    with pytest.raises(UserError, match="must be above 0"):
        channel_statistics(1, std=(0.0,))


def test_crops_are_those_that_torchvision_draws() -> None:
    generator = np.random.default_rng(0)
    for key in range(2000):
        height, width = (int(side) for side in generator.integers(1, [900, 30][key % 2], 2))
        scale = [(0.2, 1.0), (0.9, 1.0), (0.05, 0.1)][key % 3]
        with seeded(key):
            expected = RandomResizedCrop.get_params(
                torch.empty(1, height, width), list(scale), [3 / 4, 4 / 3]
            )
            after = torch.rand(())
        with seeded(key):
            crop = RandomCropFlip((8, 8), scale, hflip=False).draw(height, width)
            assert crop.box == tuple(expected)
            assert torch.rand(()) == after
