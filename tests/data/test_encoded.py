"""JPEGs decoded in batches where they are used: the crops of the readers, and damage that ends nothing."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
import torch
from PIL import Image
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.data.dataset import Batch, ImageDataset
from fcmae.data.encoded import Encoded, check_gpu_decoding, decode_jpegs
from fcmae.data.images import FolderSource, Selection
from fcmae.data.index import ImageIndex
from fcmae.data.loader import Loader
from fcmae.data.transforms import RandomCropFlip

CPU = torch.device("cpu")
FOLDER = Path(sklearn.__file__).parent / "datasets" / "images"
BATCHES = [[(0, 0), (1, 0), (0, 1), (0, 2)], [(0, 3), (2, 1), (2, 2), (2, 3)]]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Selection:
    """Two photographs, one that is turned, and a PNG."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    root.mkdir()
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(FOLDER / name, root)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(FOLDER / "flower.jpg") as image:
        image.save(root / "turned.jpg", exif=exif)
        image.resize((80, 60)).save(root / "z.png")
    return Selection(FolderSource(ImageIndex.scan(root), 3), np.arange(4))


def as_it_is(image: Any) -> Any:
    return image, torch.rand(2)


def batches(source: Selection, workers: int = 0, channels: int | None = 3) -> list[Batch]:
    dataset = ImageDataset(source, as_it_is, 3, RandomCropFlip((32, 48), vflip=True, turns=True), channels)
    return list(Loader(dataset, BATCHES, workers, CPU))


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_decoded_later_are_those_of_the_readers(source: Selection, workers: int) -> None:
    later, here = batches(source, workers), batches(source, channels=None)
    for ours, expected in zip(later, here, strict=True):
        images, noise = ours.to(CPU).data
        assert isinstance(ours.data[0], Encoded)
        assert ours.data[0].shape == (3, 32, 48)
        assert torch.equal(images, expected.data[0])
        assert torch.equal(noise, expected.data[1])
        assert torch.equal(ours.source_index, expected.source_index)


def test_an_image_of_several_turns_is_sent_once(source: Selection) -> None:
    first = batches(source)[0].data[0]
    assert (len(first.contents), first.image_of) == (3, (0, 0, 1, 2))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_images_are_broken_and_others_stand_in(source: Selection, tmp_path: Path) -> None:
    china = tmp_path / "images" / "china.jpg"
    content = china.read_bytes()
    china.write_bytes(content[: len(content) // 2])
    with pytest.raises(RuntimeError):
        decode_jpegs([torch.frombuffer(bytearray(china.read_bytes()), dtype=torch.uint8)], 3, CPU)
    [batch, _] = batches(source)
    moved = batch.to(CPU)
    assert [index for index, _ in moved.broken] == [0, 0]
    assert "truncated" in moved.broken[0][1]
    assert moved.data[0].shape == (4, 3, 32, 48)
    assert torch.equal(moved.data[0][0], moved.data[0][1])  # flower.jpg, whole
    assert moved.data[0][0].float().std() > 1


def test_a_batch_of_which_nothing_can_be_decoded_is_refused() -> None:
    rubbish = (torch.zeros(100, dtype=torch.uint8),)
    crop = RandomCropFlip((8, 8))
    encoded = Encoded(rubbish, (0,), (crop.whole(8, 8),), crop, 3)
    with pytest.raises(UserError, match="none of 1 images"):
        encoded.decode(CPU)


def test_the_decoder_is_given_all_at_once(source: Selection) -> None:
    calls: list[int] = []

    def decode(contents: list[Tensor], channels: int, device: torch.device) -> list[Tensor]:
        calls.append(len(contents))
        return decode_jpegs(contents, channels, device)

    first = batches(source)[0].data[0]
    images, broken = first.decode(CPU, decode)
    assert (images.shape, broken, calls) == ((4, 3, 32, 48), {}, [2])  # the third is turned: a reader's


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_decodes_the_same_crops_within_its_decoders_rounding(source: Selection) -> None:
    for batch, expected in zip(batches(source), batches(source, channels=None), strict=True):
        images = batch.to(torch.device("cuda")).data[0].cpu()
        difference = (images.float() - expected.data[0].float()).abs()
        assert difference.mean() < 2  # colours are upsampled otherwise


@pytest.mark.parametrize(
    ("device", "channels", "no_data", "named"),
    [("cpu", 3, None, "device is cpu"), ("cuda", 4, None, "1 or 3"), ("cuda", 3, "nan", "all data")],
)
def test_what_a_gpu_cannot_decode_is_refused(device: str, channels: int, no_data: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        check_gpu_decoding(torch.device(device), channels, no_data)
    check_gpu_decoding(torch.device("cuda"), 3, None)
