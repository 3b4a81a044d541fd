"""Images by number: a folder that cannot be read is refused; images and labels stay together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.images import ArraySource, FolderSource, Labelled, Remainder
from fcmae.data.index import ImageIndex

N = 20


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "images"
    root.mkdir()
    for i in range(N):
        Image.new("RGB", (8, 8), (i, i, i)).save(root / f"{i:02}.png")
    return root


def test_a_folder_gives_its_images_by_number(folder: Path) -> None:
    source = FolderSource(ImageIndex.scan(folder), 3)
    assert len(source) == N
    assert (source.name(7), int(source.read(7).max())) == ("07.png", 7)


def test_the_check_finds_the_one_readable_image_and_names_the_first_error(folder: Path) -> None:
    source = FolderSource(ImageIndex.scan(folder), 3)
    for name in sorted(folder.iterdir())[:-1]:
        name.write_bytes(b"not an image")
    source.check()
    (folder / f"{N - 1}.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"no readable image among the 20 tried of 20 .*00\.png: not an"):
        source.check()


def test_the_check_of_channels_says_what_is_wrong(folder: Path) -> None:
    with pytest.raises(UserError, match="no transparency"):
        FolderSource(ImageIndex.scan(folder), 4).check()


def test_images_and_labels_stay_together() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    data = Labelled(ArraySource(images, "number"), torch.arange(10) % 2, ["even", "odd"])
    some = data.select(np.array([7, 2]))
    assert [some.source.name(i) for i in range(len(some.source))] == ["number 7", "number 2"]
    assert [int(some.source.read(i)) for i in range(2)] == [7, 2]
    assert (some.labels.tolist(), some.classes) == ([1, 0], ["even", "odd"])


def test_a_split_takes_of_each_class() -> None:
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1)
    data = Labelled(ArraySource(images), torch.arange(20) // 10, ["low", "high"])
    train, val = data.split(0.2, seed=0)
    assert (train.labels.bincount().tolist(), val.labels.bincount().tolist()) == ([8, 8], [2, 2])
    read = [int(part.source.read(i)) for part in (train, val) for i in range(len(part.source))]
    assert sorted(read) == list(range(20))


@pytest.mark.parametrize("left_out", [[], [0], [2, 5], [0, 1, 2, 8, 9], [9]])
def test_a_remainder_is_all_but_a_few(left_out: list[int]) -> None:
    source = ArraySource(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1))
    remainder = Remainder(source, np.array(left_out, np.int64))
    kept = [i for i in range(10) if i not in left_out]
    assert [int(remainder.read(i)) for i in range(len(remainder))] == kept
    assert [remainder.name(i) for i in range(len(remainder))] == [f"image {i}" for i in kept]
