"""Arrays and slides by tiles: each pixel once, nothing read that is not asked for, damage told."""

import itertools
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.data.arrays.windows import open_array
from fcmae.data.dataset import ImageDataset
from fcmae.data.decode import BrokenImage
from fcmae.data.loader import Loader
from fcmae.data.sources import SourceOptions, find_opener, open_source, open_splits
from fcmae.data.sources.tiles import TilesOpener

OPTIONS = SourceOptions(channels=3, size=8, val_fraction=0.5)
PICTURE = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
STACK = np.random.default_rng(1).integers(0, 256, (6, 20, 30, 3), np.uint8)


def assemble(source: Any, height: int, width: int) -> np.ndarray:
    """The picture that tiles are of, from where their names say they lie."""
    whole = np.zeros((height, width, 3), np.uint8)
    for i in range(len(source)):
        top, left = map(int, source.name(i).rpartition(" ")[2].split(","))
        tile = source.read(i).permute(1, 2, 0).numpy()
        whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return whole


def write_zarr(path: Path, array: np.ndarray, version: int, chunks: tuple[int, ...]) -> Path:
    zarr = pytest.importorskip("zarr")
    made = zarr.create_array(path, shape=array.shape, dtype=array.dtype, chunks=chunks, zarr_format=version)
    made[...] = array
    return path


def write(folder: Path, kind: str) -> Path:
    if kind == "npy":
        np.save(folder / "a.npy", PICTURE)
    elif kind == "fortran.npy":
        np.save(folder / f"a.{kind}", np.asfortranarray(PICTURE))
    elif kind == "npz":
        np.savez(folder / "a.npz", PICTURE)
    elif kind == "packed.npz":
        np.savez_compressed(folder / "a.packed.npz", PICTURE)
    elif kind.startswith("zarr"):
        write_zarr(folder / f"a.{kind}", PICTURE, int(kind[-1]), (32, 32, 3))
    else:
        tifffile = pytest.importorskip("tifffile")
        options: dict[str, Any] = {"photometric": "rgb", "bigtiff": kind == "big.tif"}
        if kind != "strips.tif":
            options |= {"tile": (32, 32), "compression": "zlib"}
        tifffile.imwrite(folder / f"a.{kind}", PICTURE, **options)
    return folder / f"a.{kind}"


KINDS = ["npy", "fortran.npy", "npz", "packed.npz", "zarr2", "zarr3", "tif", "big.tif", "strips.tif"]


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_hold_each_pixel(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    for tile, count in ((32, 12), (64, 4), (100, 1), (1000, 1)):
        source = open_source(f"{path}:tile={tile}", OPTIONS)
        assert len(source) == count
        assert np.array_equal(assemble(source, 70, 100), PICTURE)
        assert {tuple(source.read(i).shape) for i in range(count)} == {(3, min(tile, 70), min(tile, 100))}
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.read(0), source.read(0))


@pytest.mark.parametrize("kind", ["npy", "zarr3", "tif"])
def test_workers_read_what_this_process_reads(tmp_path: Path, kind: str) -> None:
    source = open_source(f"{write(tmp_path, kind)}:tile=32", OPTIONS)
    dataset = ImageDataset(source, lambda image: image, seed=0)
    keys = [[(0, i), (0, i + 1)] for i in range(0, 12, 2)]
    batches = list(Loader(dataset, keys, 2, torch.device("cpu")))
    for i, image in enumerate(itertools.chain(*(batch.data for batch in batches))):
        assert torch.equal(image, source.read(i))


@pytest.mark.parametrize(
    ("shape", "axes", "channels", "sizes"),
    [
        ((6, 20, 30, 3), None, 3, (6, 20, 30)),
        ((6, 3, 20, 30), None, 3, (6, 20, 30)),
        ((6, 20, 30), None, 3, (6, 20, 30)),
        ((20, 30, 3), None, 3, (1, 20, 30)),
        ((5, 20, 30), None, 5, (1, 20, 30)),
        ((20, 30, 12), None, 12, (1, 20, 30)),
        ((20, 30), None, 1, (1, 20, 30)),
        ((12, 20, 30), "cyx", 12, (1, 20, 30)),
        ((2, 4, 20, 30, 2), "tzyxc", 2, (8, 20, 30)),
        ((20, 30, 4), "yxt", 1, (4, 20, 30)),
    ],
)
def test_axes_are_told_by_shape_or_by_the_user(
    tmp_path: Path, shape: tuple[int, ...], axes: str | None, channels: int, sizes: tuple[int, int, int]
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "a.npy", array)
    spec = f"{tmp_path / 'a.npy'}:tile=64" + (f",axes={axes}" if axes else "")
    source = open_source(spec, SourceOptions(channels, 8))
    assert (len(source), *source.read(0).shape) == (sizes[0], channels, *sizes[1:])
    told = {(6, 3, 20, 30): "ncyx", (6, 20, 30): "nyx", (5, 20, 30): "cyx", (20, 30): "yx"}
    letters = axes or told.get(shape, "nyxc"[-len(shape) :])
    order = [letters.index(axis) for axis in letters if axis not in "cyx"]
    order += [letters.index(axis) for axis in "cyx" if axis in letters]
    pictures = array.transpose(order).reshape(sizes[0], -1, *sizes[1:])
    for i in range(sizes[0]):
        assert np.array_equal(source.read(i).numpy(), np.broadcast_to(pictures[i], (channels, *sizes[1:])))


def test_axes_that_cannot_be_told_are_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 5, 20, 30), np.uint8))
    for options in ("", ":axes=yx", ":axes=nnnnn"):
        with pytest.raises(UserError, match="axes"):
            open_source(f"{tmp_path / 'a.npy'}{options}", OPTIONS)
    for options in (":tile=0", ":tile=x", ":tiles=4"):
        with pytest.raises(UserError, match="tile"):
            open_source(f"{tmp_path / 'a.npy'}{options}", OPTIONS)


def write_sparse_slide(path: Path, side: int, tile: int) -> int:
    """A BigTIFF of holes, as large as a whole slide, without a byte of pixels; returns where they begin."""
    across = side // tile
    numbers = np.arange(across**2, dtype="<u8")
    start = 16 + 8 + 11 * 20 + 8 + 2 * numbers.nbytes
    offsets, sizes = start + numbers * (tile * tile * 3), np.full(across**2, tile * tile * 3, "<u8")
    tables = start - 2 * numbers.nbytes
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 3, 0x0000_0008_0008_0008), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 2), (277, 3, 1, 3), (284, 3, 1, 1), (322, 4, 1, tile), (323, 4, 1, tile)]
    tags += [(324, 16, across**2, tables), (325, 16, across**2, tables + numbers.nbytes)]
    with path.open("wb") as file:
        file.write(b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, len(tags)))
        file.write(b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + bytes(8))
        file.write(offsets.tobytes() + sizes.tobytes())
        file.truncate(start + side * side * 3)
    return start


def test_a_slide_larger_than_memory_is_read_by_its_tiles(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    pytest.importorskip("zarr")
    side, tile, path = 100_352, 1024, tmp_path / "slide.tif"
    start = write_sparse_slide(path, side, tile)
    assert path.stat().st_size > 30e9
    with path.open("r+b") as file:
        file.seek(start + (49 * 98 + 7) * tile * tile * 3)
        file.write(bytes(range(1, 4)) * 4)
    source = open_source(f"{path}:tile=512", OPTIONS)
    assert len(source) == 196**2
    before = int(Path("/proc/self/io").read_text().split()[1])
    pixels = source.read(98 * 196 + 14)  # the first of four in the tile of 1024 that was written
    bytes_read = int(Path("/proc/self/io").read_text().split()[1]) - before
    assert pixels[:, 0, :5].T.tolist() == [[1, 2, 3]] * 4 + [[0, 0, 0]]
    assert bytes_read < 2 * tile * tile * 3
    assert int(source.read(len(source) - 1).max()) == 0


def test_an_array_is_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", PICTURE)
    counted: list[int] = []
    pread = os.pread

    def count(file: int, size: int, at: int) -> bytes:
        counted.append(size)
        return pread(file, size, at)

    monkeypatch.setattr(os, "pread", count)
    source = open_source(f"{tmp_path / 'a.npy'}:tile=32", OPTIONS)
    counted.clear()
    source.read(0)
    assert counted == [32 * 3] * 32


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_short_is_refused_or_a_broken_image(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    for file in files:
        content = file.read_bytes()
        for kept in (0, 5, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:kept])
            try:
                source = TilesOpener(f"{path}:tile=32").open_images(OPTIONS)
                for i in range(len(source)):
                    source.read(i)
            except (UserError, BrokenImage) as error:
                assert "a." in str(error)  # noqa: PT017
        file.write_bytes(content)


def test_an_array_that_becomes_shorter_while_it_is_read_is_a_broken_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PICTURE)
    source = open_source(f"{tmp_path / 'a.npy'}:tile=32", OPTIONS)
    os.truncate(tmp_path / "a.npy", 12_000)
    assert source.read(0).shape == (3, 32, 32)
    with pytest.raises(BrokenImage, match="shorter"):
        source.read(len(source) - 1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
        ("images", "labels"),
    ],
)
def test_labelled_arrays_of_usual_names(tmp_path: Path, names: tuple[str, ...], packed: bool) -> None:
    numbers = np.array([3, 7, 3, 7, 3, 7])
    arrays = {name: STACK if i % 2 == 0 else numbers[:, None] for i, name in enumerate(names)}
    save: Any = np.savez_compressed if packed else np.savez
    save(tmp_path / "a.npz", **arrays)
    train, val = open_splits(f"{tmp_path / 'a.npz'}:tile=8", OPTIONS)  # labelled images stay whole
    assert train.classes == val.classes == ["3", "7"]
    assert [len(part.labels) for part in (train, val)] == ([6, 6] if len(names) > 2 else [2, 4])
    assert train.source.read(0).shape == (3, 20, 30)
    assert len(open_source(str(tmp_path / "a.npz"), OPTIONS)) == 6


def test_labels_beside_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", STACK)
    np.save(tmp_path / "labels.npy", np.array([0, 0, 1, 1, 2, 2]))
    train, val = open_splits(f"{tmp_path / 'images.npy'}:labels=labels.npy", OPTIONS)
    assert sorted(train.labels.tolist() + val.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(UserError, match="labels"):
        open_splits(str(tmp_path / "images.npy"), OPTIONS)
    np.save(tmp_path / "labels.npy", np.array([0, 1]))
    with pytest.raises(UserError, match="6 images and 2 labels"):
        open_splits(f"{tmp_path / 'images.npy'}:labels=labels.npy", OPTIONS)


def test_ome_zarr_is_read_at_its_finest_level(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for level, step in ((0, 1), (1, 2)):
        data = PICTURE.transpose(2, 0, 1)[None, :, None, ::step, ::step]
        array = group.create_array(str(level), shape=data.shape, dtype=data.dtype, chunks=(1, 1, 1, 32, 32))
        array[...] = data
    axes = [{"name": name} for name in "tczyx"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]
    source = open_source(f"{tmp_path / 'a.zarr'}:tile=64", OPTIONS)
    assert np.array_equal(assemble(source, 70, 100), PICTURE)


def test_a_folder_and_a_list_of_slides_are_cut_where_a_tile_is_given(tmp_path: Path) -> None:
    for name in ("b.npy", "deep/a.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, PICTURE)
    (tmp_path / "some.txt").write_text("deep/a.npy\n")
    assert len(open_source(f"{tmp_path}:tile=64", OPTIONS)) == 8
    assert len(open_source(f"{tmp_path / 'some.txt'}:tile=64", OPTIONS)) == 4
    assert len(open_source(str(tmp_path), OPTIONS)) == 2  # pictures, each as a whole
    described = [find_opener(f"{tmp_path}:tile={tile}").describe([]) for tile in (64, 64, 32)]
    assert described[0] == described[1] != described[2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no slide"):
        open_source(f"{tmp_path / 'empty'}:tile=64", OPTIONS)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=PICTURE, b=PICTURE)
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("a.npy", json.dumps({}))
    for name in ("words.npy", "objects.npy", "two.npz", "text.npz"):
        with pytest.raises(UserError, match=name):
            open_source(str(tmp_path / name), OPTIONS)
    assert len(open_source(f"{tmp_path / 'two.npz'}:images=b", OPTIONS)) == 1


def test_pieces_too_large_to_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide, packed = write(tmp_path, "tif"), write(tmp_path, "packed.npz")
    monkeypatch.setattr("fcmae.data.arrays.windows.MOST_CHUNK", 1000)
    with pytest.raises(UserError, match="vips"):
        open_array(slide)
    monkeypatch.setattr("fcmae.data.arrays.windows.MOST_UNPACKED", 1000)
    with pytest.raises(UserError, match="unzip"):
        open_array(packed)
