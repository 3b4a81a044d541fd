"""Large JPEGs decoded smaller: the same crops, nearly the same pixels, whatever decoder and orientation."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from PIL import Image
from torch import Tensor

from fcmae.data import pictures
from fcmae.data.dataset import ImageDataset
from fcmae.data.decode import read_image
from fcmae.data.images import FolderSource
from fcmae.data.index import ImageIndex
from fcmae.data.transforms import RandomCropFlip

FOLDER = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOS = ("china.jpg", "flower.jpg")  # of 640 x 427 pixels, sharp and soft
PHOTO = FOLDER / PHOTOS[0]
KEYS = [(turn, index) for index in range(2) for turn in range(6)]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderSource:
    """Two photographs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in PHOTOS:
        shutil.copy(FOLDER / name, tmp_path)
    return FolderSource(ImageIndex.scan(tmp_path), 3)


def crops(source: FolderSource, crop: RandomCropFlip) -> Tensor:
    dataset = ImageDataset(source, lambda image: image, 1, crop)
    return torch.stack([item.data for item in dataset.__getitems__(KEYS)]).float()


@pytest.mark.parametrize("side", [24, 40])
def test_crops_are_within_half_a_level_of_those_of_all_pixels(source: FolderSource, side: int) -> None:
    shrunk = RandomCropFlip((side, side), scale=(0.5, 1.0), shrinks=True)
    read = source.read_shrunk

    def whole(i: int, shrink: pictures.Shrink | None) -> Tensor:
        return read(i, None)  # the same crops, of all pixels

    ours = crops(source, shrunk)
    source.read_shrunk = whole  # type: ignore[method-assign]
    difference = (ours - crops(source, shrunk)).abs()
    assert 0 < difference.mean() < 0.5


def test_small_images_and_full_decoding_keep_every_pixel(source: FolderSource) -> None:
    full, large = RandomCropFlip((24, 24)), RandomCropFlip((224, 224), shrinks=True)
    assert torch.equal(crops(source, large), crops(source, RandomCropFlip((224, 224))))
    image = source.read(0)
    torch.manual_seed(0)
    once = full(image)
    torch.manual_seed(0)
    assert torch.equal(once, full.apply(image, full.draw(*image.shape[1:])))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("width", [640, 636])
def test_turned_photographs_shrink_upright_or_not_at_all(
    tmp_path: Path, orientation: int, width: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(PHOTO) as image:
        image.crop((0, 0, width, 424)).save(tmp_path / "a.jpg", exif=exif)
    whole = read_image(tmp_path / "a.jpg", 3)
    asked: list[tuple[int, int]] = []

    def shrink(height: int, width: int) -> int:
        asked.append((height, width))
        return 8

    shrunk = read_image(tmp_path / "a.jpg", 3, shrink=shrink)
    assert asked == [tuple(whole.shape[1:])]
    if orientation > 1 and width % 8:
        assert torch.equal(shrunk, whole)
        return
    height, width = (-(-side // 8) for side in whole.shape[1:])
    assert shrunk.shape == (3, height, width)
    means = torch.nn.functional.avg_pool2d(whole.float()[None], 8, ceil_mode=True)[0]
    assert (shrunk - means).abs().mean() < 1


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_decodes_the_same_pixels_where_simplejpeg_is_missing(
    channels: int, divisor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PHOTO.read_bytes()
    ours = pictures._find_jpeg_decoder()(data, channels, divisor)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    pictures._find_jpeg_decoder.cache_clear()
    theirs = pictures._find_jpeg_decoder()(data, channels, divisor)
    pictures._find_jpeg_decoder.cache_clear()
    assert np.array_equal(ours.squeeze(), theirs)
    assert theirs.shape[:2] == (-(-427 // divisor), -(-640 // divisor))
