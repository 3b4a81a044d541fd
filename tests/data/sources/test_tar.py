"""Data in tar archives: which archives a name stands for, their splits and their labels."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.data.images import FolderSource, Labelled
from fcmae.data.index import load_lists, save_lists
from fcmae.data.sources import SourceOptions, find_opener, open_splits
from fcmae.data.sources.folder import FolderOpener
from fcmae.data.sources.tar import TarOpener, find_archives
from tests.data.archives_helper import picture, write_imagenet, write_shard, write_tar

OPTIONS = SourceOptions(channels=3, size=16)
SYNSETS = ["n01440764", "n01441765", "n01442766", "n01443767"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def labelled(data: Labelled) -> dict[str, str]:
    return {data.source.name(i): data.classes[int(label)] for i, label in enumerate(data.labels)}


def names(spec: Path, *, held_out: bool = False) -> list[str]:
    opener = find_opener(str(spec))
    assert isinstance(opener, TarOpener)
    index = opener.list_files(held_out=held_out)
    return [index[i] for i in range(len(index))]


def test_a_folder_in_one_archive_is_as_the_folder(tmp_path: Path) -> None:
    files = {
        f"./pets/{split}/{name}/{i}.jpg": picture(i)
        for split, count in (("train", 4), ("val", 2))
        for name in ("cat", "dog")
        for i in range(count)
    }
    write_tar(tmp_path / "pets.tar", files)
    with tarfile.open(tmp_path / "pets.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    for train_or_val in range(2):
        packed = open_splits(str(tmp_path / "pets.tar"), OPTIONS)[train_or_val]
        unpacked = open_splits(str(tmp_path / "unpacked/pets"), OPTIONS)[train_or_val]
        assert packed.classes == unpacked.classes == ["cat", "dog"]
        assert packed.labels.tolist() == unpacked.labels.tolist()
        for i in range(len(unpacked.labels)):
            assert packed.source.name(i).endswith(unpacked.source.name(i))
            assert torch.equal(packed.source.read(i), unpacked.source.read(i))
    assert len(find_opener(str(tmp_path / "pets.tar")).list_images()[0]) == 12


def test_a_tree_in_one_piece_is_divided_as_a_folder_is(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {f"{name}/{i}.jpg": picture(i) for name in "ab" for i in range(10)})
    train, val = open_splits(str(tmp_path / "x.tar"), OPTIONS)
    assert (len(train.labels), len(val.labels)) == (16, 4)
    assert not set(labelled(train)) & set(labelled(val))
    assert all(name.split("/")[1] == label for name, label in (labelled(train) | labelled(val)).items())


@pytest.mark.parametrize("label_in", ["cls", "json"])
def test_shards_have_the_labels_of_their_samples(tmp_path: Path, label_in: str) -> None:
    for split, first in (("train", 0), ("validation", 60)):
        for shard in range(2):
            path = tmp_path / f"birds-{split}-{shard:04d}.tar"
            write_shard(path, first + shard * 10, [(first + i) % 3 for i in range(10)], label_in)
    (tmp_path / "_info.json").write_text("{}")
    train, val = open_splits(str(tmp_path), OPTIONS)
    assert train.classes == val.classes == ["0", "1", "2"]
    assert train.labels.tolist() == [i % 3 for i in range(10)] * 2
    assert val.source.name(11) == "birds-validation-0001.tar/000071.jpg"
    assert len(find_opener(str(tmp_path)).list_images()[0]) == 20
    assert len(find_opener(str(tmp_path)).open_everything(OPTIONS)) == 40
    (tmp_path / "classes.txt").write_text("crow\ntit\nowl\n")
    assert open_splits(str(tmp_path), OPTIONS)[1].classes == ["crow", "tit", "owl"]
    (tmp_path / "classes.txt").write_text("crow\ntit\n")
    with pytest.raises(UserError, match=r"classes\.txt"):
        open_splits(str(tmp_path), OPTIONS)


def test_shards_in_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_shard(tmp_path / split / "000.tar", 0, ["cat", "dog"] * 2)
    train, val = open_splits(str(tmp_path), OPTIONS)
    assert labelled(train)["train/000.tar/000001.jpg"] == labelled(val)["val/000.tar/000001.jpg"] == "dog"


def test_patterns_name_their_archives(tmp_path: Path) -> None:
    for i in range(12):
        write_shard(tmp_path / f"{i:03d}.tar", i, [i])
    assert [name[:3] for name in names(tmp_path / "{009..011}.tar")] == ["009", "010", "011"]
    assert [name[:3] for name in names(tmp_path / "{001,004}.tar")] == ["001", "004"]
    assert [name[:3] for name in names(tmp_path / "01*.tar")] == ["010", "011"]
    assert len(names(tmp_path / "*.tar")) == len(names(tmp_path)) == 12
    for pattern in ("{009..013}.tar", "{0..999999999}.tar", "2*.tar", "no.tar"):
        with pytest.raises(UserError, match="does not exist"):
            find_archives(str(tmp_path / pattern))
    write_shard(tmp_path / "{x}[y].tar", 50, [1])
    assert len(names(tmp_path / "{x}[y].tar")) == 1


def test_synset_archives_are_classes(tmp_path: Path) -> None:
    for i, synset in enumerate(SYNSETS):
        write_tar(tmp_path / f"{synset}.tar", {f"{synset}_{j}.JPEG": picture(i + j) for j in range(5)})
    train, _ = open_splits(str(tmp_path), OPTIONS)
    assert train.classes == SYNSETS
    assert all(name.startswith(label) for name, label in labelled(train).items())


def test_archives_called_by_words_are_classes_and_numbered_ones_are_none(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_tar(tmp_path / "words" / f"{name}.tar", {f"images/{j}.jpg": picture(j) for j in range(5)})
    assert open_splits(str(tmp_path / "words"), OPTIONS)[0].classes == ["cats", "dogs"]
    for i in range(3):
        write_tar(tmp_path / "numbers" / f"part-{i}.tar", {f"{i}{j}.jpg": picture(j) for j in range(5)})
    with pytest.raises(UserError, match=r"part-0\.tar"):
        open_splits(str(tmp_path / "numbers"), OPTIONS)
    assert len(names(tmp_path / "numbers")) == 15


def test_some_images_without_a_label_are_refused_by_name(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar", {"a.jpg": picture(1), "a.cls": b"1", "b.jpg": picture(2), "c.jpg": picture(3)}
    )
    with pytest.raises(UserError, match=r"x\.tar/b\.jpg.* 2 of the 3"):
        open_splits(str(tmp_path / "x.tar"), OPTIONS)
    write_tar(tmp_path / "y.tar", {"a.jpg": picture(1), "cat/b.jpg": picture(2), "dog/c.jpg": picture(3)})
    with pytest.raises(UserError, match=r"y\.tar"):
        open_splits(str(tmp_path / "y.tar"), OPTIONS)
    write_shard(tmp_path / "z.tar", 0, [1, 2_000_000_000])
    with pytest.raises(UserError, match="2000000000"):
        open_splits(str(tmp_path / "z.tar"), OPTIONS)


@pytest.mark.parametrize("unpacked", [False, True])
def test_imagenets_downloads_are_a_data_set(tmp_path: Path, unpacked: bool) -> None:
    labels = write_imagenet(tmp_path)
    if unpacked:
        with tarfile.open(tmp_path / "ILSVRC2012_devkit_t12.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    train, val = open_splits(str(tmp_path), OPTIONS)
    assert train.classes == val.classes == SYNSETS
    assert all(label in name for name, label in labelled(train).items())
    assert len(labelled(train)) == 24
    assert val.labels.tolist() == labels
    assert [val.source.name(i)[-13:-5] for i in range(12)] == [f"{i + 1:08d}" for i in range(12)]
    assert len(find_opener(str(tmp_path)).list_images()[0]) == 24
    only_val = find_opener(str(tmp_path / "ILSVRC2012_img_val.tar")).open_validation(OPTIONS)
    assert labelled(only_val) == labelled(val)


def test_a_list_beside_the_validation_images_serves_as_well_and_none_is_an_error(tmp_path: Path) -> None:
    labels = write_imagenet(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(UserError, match=r"ILSVRC2012_img_val\.tar.*devkit"):
        open_splits(str(tmp_path), OPTIONS)
    lines = [f"ILSVRC2012_val_{i + 1:08d},{SYNSETS[label]} 1 2 3 4" for i, label in enumerate(labels)]
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines[::-1]))
    assert open_splits(str(tmp_path), OPTIONS)[1].labels.tolist() == labels
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines[1:]))
    with pytest.raises(UserError, match="image 1 "):
        open_splits(str(tmp_path), OPTIONS)


def test_a_run_keeps_what_it_needs_and_goes_on_without_the_devkit(tmp_path: Path) -> None:
    labels = write_imagenet(tmp_path)
    opener = find_opener(str(tmp_path))
    lists = opener.list_splits(0.2, 0)
    files = (tmp_path / "train.npz", tmp_path / "val.npz")
    save_lists(lists, *files)
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    options = SourceOptions(channels=3, size=16, lists=load_lists(*files))
    train, val = opener.open_splits(options)
    assert val.labels.tolist() == labels
    assert train.source.read(20).shape == (3, 20, 24)
    assert set(options.lists[0].columns) == {"archive", "start", "size", "label"}


def test_folders_with_images_or_folders_in_them_are_no_archives(tmp_path: Path) -> None:
    write_shard(tmp_path / "a" / "x.tar", 0, [0])
    (tmp_path / "a" / "x" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "a" / "x" / "train" / "cat" / "photo.jpg").write_bytes(picture(1))
    write_shard(tmp_path / "b" / "x.tar", 0, [0])
    (tmp_path / "b" / "photo.jpg").write_bytes(picture(1))
    (tmp_path / "c").mkdir()
    for name in "abc":
        assert isinstance(find_opener(str(tmp_path / name)), FolderOpener)


def test_no_image_in_an_archive_is_told_with_what_was_found(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"a.jxl": b"", "b.txt": b""})
    with pytest.raises(UserError, match=r"x\.tar holds no image.*1 \.txt"):
        find_opener(str(tmp_path / "x.tar")).list_images()
    write_tar(tmp_path / "y.tar", {"a.jpg": b"no image"})
    with pytest.raises(UserError, match=r"y\.tar.*a\.jpg"):
        find_opener(str(tmp_path / "y.tar")).list_images()


def test_the_order_is_that_of_the_archives_on_every_machine(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_tar(tmp_path / f"{name}.tar", {f"{i}.jpg": picture(i) for i in (3, 1, 2)})
    index = TarOpener(str(tmp_path)).list_files(held_out=True)
    assert [index[i] for i in range(6)] == [f"{name}.tar/{i}.jpg" for name in "ab" for i in (3, 1, 2)]
    assert np.all(np.diff(index.columns["archive"]) >= 0)


def test_archives_and_folders_in_several_places_are_one_data_set(tmp_path: Path) -> None:
    files = [(name, i) for name in ("cat", "dog") for i in range(2)]
    write_tar(tmp_path / "a" / "x.tar", {f"{name}/{i}.jpg": picture(i) for name, i in files})
    files = [(name, i) for name in ("dog", "ox") for i in range(2)]
    write_tar(tmp_path / "b" / "c" / "y.tar", {f"{name}/{i}.jpg": picture(10 + i) for name, i in files})
    (tmp_path / "photos" / "ox").mkdir(parents=True)
    (tmp_path / "photos" / "ox" / "1.jpg").write_bytes(picture(30))
    (tmp_path / "photos" / "cat").mkdir()
    (tmp_path / "photos" / "cat" / "1.jpg").write_bytes(picture(31))
    spec = [str(tmp_path / "a" / "x.tar"), str(tmp_path / "photos"), str(tmp_path / "b" / "c" / "y.tar")]
    train, val = open_splits(spec, OPTIONS)
    assert train.classes == ["cat", "dog", "ox"]
    opener = find_opener(spec)
    [index] = opener.list_images()
    index.save(tmp_path / "list.npz")
    source = opener.open_images(SourceOptions(channels=3, size=16, lists=load_lists(tmp_path / "list.npz")))
    assert isinstance(source, FolderSource)
    expected = [picture(i) for i in (0, 1, 0, 1, 31, 30, 10, 11, 10, 11)]
    assert [source.read_bytes(i) for i in range(10)] == expected
    assert source.name(9) == "b/c/y.tar/ox/1.jpg"
    assert {**labelled(train), **labelled(val)}["photos/ox/1.jpg"] == "ox"
    with pytest.raises(UserError, match="twice"):
        find_opener([spec[0], spec[0]])
