"""Lists of files: in their order, relative to the list, however they were written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.sources import SourceOptions, find_opener, open_source, open_splits
from fcmae.data.sources.listing import read_list

OPTIONS = SourceOptions(channels=1, size=8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(("dog", "cat")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8), 10 * number + i).save(tmp_path / "images" / name / f"{i} a.png")
    return tmp_path / "images"


def test_a_list_is_read_in_its_order_wherever_it_lies(images: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    absolute = images / "cat/0 a.png"
    paths = ["../images/cat/2 a.png", "../images/dog/0 a.png", str(absolute)]
    for text in ("\n".join(paths), "\r\n".join(["", *paths, "", ""]), "\ufeff" + "\n\n".join(paths)):
        (tmp_path / "lists/some.txt").write_bytes(text.encode())
        source = open_source(str(tmp_path / "lists/some.txt"), OPTIONS)
        assert [int(source.read(i).max()) for i in range(len(source))] == [12, 0, 10]
        assert [source.name(i) for i in range(3)] == paths


def test_the_folder_of_a_file_names_its_class(images: Path, tmp_path: Path) -> None:
    (images / "all.txt").write_text(
        "".join(f"{name}/{i} a.png\n" for i in range(3) for name in ("dog", "cat"))
    )
    train, val = open_splits(str(images / "all.txt"), OPTIONS)
    assert train.classes == val.classes == ["cat", "dog"]
    for part in (train, val):
        for i, label in enumerate(part.labels.tolist()):
            assert (int(part.source.read(i).max()) >= 10) == (part.classes[label] == "cat")
    assert [len(part.labels) for part in (train, val)] == [4, 2]


def test_lists_and_folders_are_joined(images: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text(f"images/dog/1 a.png\n{images / 'dog/2 a.png'}\n")
    source = open_source([str(tmp_path / "some.txt"), str(images / "cat")], OPTIONS)
    assert [int(source.read(i).max()) for i in range(len(source))] == [1, 2, 10, 11, 12]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\0\1\2", b"nowhere.png\nnor_here.png"])
def test_what_lists_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        find_opener(str(tmp_path / "list.txt")).list_images()


def test_names_are_bytes(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe.png\n\xc3\xa9.png")
    index = read_list(tmp_path / "list.txt")
    assert [index[i] for i in range(2)] == ["\udcff\udcfe.png", "é.png"]
    assert np.diff(index.offsets).tolist() == [6, 6]
