"""Every image once: ragged ends, broken files and several processes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import fcmae.data.evaluation
from fcmae.core.world import World
from fcmae.data.evaluation import EvaluationReader
from fcmae.data.images import FolderSource
from fcmae.data.index import ImageIndex

N = 11


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderSource:
    """11 grey images, image i of brightness 10 i; image 6 is broken."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for i in range(N):
        Image.new("L", (8, 8), 10 * i).save(tmp_path / "images" / f"{i:02}.png")
    (tmp_path / "images" / "06.png").write_bytes(b"broken")
    return FolderSource(ImageIndex.scan(tmp_path / "images"), 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_readable_image_counts_once(
    source: FolderSource, monkeypatch: pytest.MonkeyPatch, world: int, workers: int
) -> None:
    seen: dict[int, int] = {}
    broken: list[int] = []
    batches = []
    for rank in range(world):
        monkeypatch.setattr(fcmae.data.evaluation, "current_world", lambda rank=rank: World(rank, world))
        reader = EvaluationReader((8, 8), 1.0, (0.0,), (1.0,), 4, workers, torch.device("cpu"))
        mine = list(reader.read_once(source))
        batches.append([len(batch.source_index) for batch in mine])
        for batch in mine:
            broken += [i for i, _ in batch.broken]
            for row, i in zip(batch.keep(batch.images), batch.keep(batch.source_index).tolist(), strict=True):
                assert i not in seen
                seen[i] = round(255 * float(row.max()))
    assert seen == {i: 10 * i for i in range(N) if i != 6}
    assert broken == [6]
    assert all(shape == batches[0] for shape in batches)  # collective operations need equal numbers


def test_a_source_without_gaps_among_those_that_have_them(source: FolderSource) -> None:
    usual = EvaluationReader((8, 8), 1.0, (0.2,), (0.5,), 4, 0, torch.device("cpu"))
    gaps = EvaluationReader((8, 8), 1.0, (0.2,), (0.5,), 4, 0, torch.device("cpu"), gaps=True)
    for ours, theirs in zip(usual.read_once(source), gaps.read_once(source), strict=True):
        assert torch.equal(ours.keep(ours.images), theirs.keep(theirs.images))
