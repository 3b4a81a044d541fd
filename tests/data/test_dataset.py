"""Batches: the same however they are read, and a broken image harms only itself."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fcmae.core.errors import TransientError
from fcmae.data.dataset import Batch, ImageDataset, seeded
from fcmae.data.decode import BrokenImage
from fcmae.data.images import ArraySource, FolderSource
from fcmae.data.index import ImageIndex
from fcmae.data.loader import Loader
from fcmae.data.sampler import StepSampler
from fcmae.data.transforms import RandomCropFlip

CPU = torch.device("cpu")
N = 20


class PartlyBroken(ArraySource):
    """Images in memory of which some cannot be read."""

    def __init__(self, images: Tensor, broken: set[int]) -> None:
        super().__init__(images)
        self.broken = broken

    def read(self, i: int) -> Tensor:
        if i in self.broken:
            raise BrokenImage(Path(self.name(i)), "is damaged")
        return super().read(i)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """20 small pictures, each of another size."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    root.mkdir()
    generator = np.random.default_rng(0)
    for i in range(N):
        pixels = generator.integers(0, 256, (30 + i, 60 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i:02}.png")
    return root


def jitter(image: Tensor) -> Tensor:
    """A transform that draws from all three generators."""
    image = RandomCropFlip((16, 24))(image).float()
    return image + torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002


def batches(folder: Path, workers: int = 0, total_steps: int = 5, **sampling: Any) -> list[Batch]:
    dataset = ImageDataset(FolderSource(ImageIndex.scan(folder), 3), jitter, seed=3)
    sampler = StepSampler(len(dataset), 8, 3, total_steps=total_steps, **sampling)
    return list(Loader(dataset, sampler, workers, CPU))


def pixels(batches: list[Batch]) -> Tensor:
    return torch.cat([batch.data for batch in batches])


def test_batches_are_the_same_for_any_number_of_workers(folder: Path) -> None:
    alone, helped = batches(folder), batches(folder, workers=2)
    assert torch.equal(pixels(alone), pixels(helped))
    assert [b.source_index.tolist() for b in alone] == [b.source_index.tolist() for b in helped]


def test_batches_are_the_same_after_a_start_in_the_middle(folder: Path) -> None:
    assert torch.equal(pixels(batches(folder))[8 * 3 :], pixels(batches(folder, workers=2, start_step=3)))


def test_processes_get_together_what_one_process_gets(folder: Path) -> None:
    ranks = [pixels(batches(folder, rank=rank, world=2)).view(5, 4, 3, 16, 24) for rank in range(2)]
    assert torch.equal(torch.cat(ranks, dim=1).flatten(0, 1), pixels(batches(folder)))


def test_an_image_looks_different_in_every_epoch(folder: Path) -> None:
    dataset = ImageDataset(FolderSource(ImageIndex.scan(folder), 3), jitter, seed=3)
    assert torch.equal(dataset[0, 5].data, dataset[0, 5].data)
    assert not torch.equal(dataset[0, 5].data, dataset[1, 5].data)


def test_reading_leaves_the_global_generators_alone(folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(folder, workers=1)
    batches(folder)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_changes_only_its_own_item(folder: Path, workers: int) -> None:
    whole = batches(folder)
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:500])
    harmed = batches(folder, workers=workers)
    for before, after in zip(whole, harmed, strict=True):
        is_broken = before.source_index == 7
        assert torch.equal(before.data[~is_broken], after.data[~is_broken])
        assert torch.equal(after.source_index, torch.where(is_broken, 8, before.source_index))
        assert [index for index, _ in after.broken] == [7] * int(is_broken.sum())
    assert any(batch.broken for batch in harmed)


def test_a_broken_image_is_replaced_by_the_next_readable_one() -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    dataset = ImageDataset(PartlyBroken(images, {0, 3, 4}), lambda image: image, seed=0)
    item = dataset[0, 3]
    assert (item.source_index, int(item.data)) == (1, 1)
    assert [index for index, _ in item.broken] == [3, 4, 0]
    assert "is damaged" in item.broken[0][1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_hundred_broken_images_in_a_row_end_the_run_in_one_line(workers: int) -> None:
    source = PartlyBroken(torch.zeros(150, 1, 2, 2, dtype=torch.uint8), set(range(120)))
    dataset = ImageDataset(source, lambda image: image, seed=0)
    loader = Loader(dataset, [[(0, i)] for i in range(9)], workers, CPU)
    with pytest.raises(TransientError) as caught:
        list(loader)
    assert str(caught.value) == (
        "100 images in a row could not be read, from image 0 on (is damaged): is the data still there?"
    )


@pytest.mark.gpu
def test_batches_reach_a_gpu_through_pinned_memory(folder: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    dataset = ImageDataset(FolderSource(ImageIndex.scan(folder), 3), jitter, seed=3)
    sampler = StepSampler(N, 8, 3, total_steps=5)
    arrived = list(Loader(dataset, sampler, 2, torch.device("cuda")))
    assert all(batch.data.is_pinned() for batch in arrived)
    moved = [batch.to(torch.device("cuda")) for batch in arrived]
    assert torch.equal(pixels(moved).cpu(), pixels(batches(folder)))


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_numbers_depend_on_the_key_alone() -> None:
    with seeded(1, 2, 3):
        first = draw()
    draw()
    with seeded(1, 2, 3):
        assert draw() == first
    for key in ((1, 2, 4), (1, 3, 3), (2, 2, 3), (3, 2, 1)):
        with seeded(*key):
            assert all(ours != other for ours, other in zip(draw(), first, strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_the_generators_go_on_as_if_nothing_had_been_drawn(fails: bool) -> None:
    with seeded(5):
        expected = draw()
    with seeded(5):
        try:
            with seeded(6):
                draw()
                if fails:
                    raise RuntimeError
        except RuntimeError:
            pass
        assert draw() == expected


def test_an_image_of_several_turns_is_read_once() -> None:
    class Counting(ArraySource):
        reads = 0

        def read(self, i: int) -> Tensor:
            self.reads += 1
            return super().read(i)

    source = Counting(torch.randint(0, 256, (3, 1, 40, 40), dtype=torch.uint8))
    dataset = ImageDataset(source, lambda image: image, 1, RandomCropFlip((8, 8)))
    keys = [(0, 1), (1, 1), (2, 1), (0, 2)]
    together = dataset.__getitems__(keys)
    assert source.reads == 2
    assert [item.source_index for item in together] == [1, 1, 1, 2]
    assert all(torch.equal(item.data, dataset[key].data) for item, key in zip(together, keys, strict=True))
    assert not torch.equal(together[0].data, together[1].data)
