"""Packed shards: what is in them, who reads them, and what a kill costs."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.images import ArraySource
from fcmae.data.sources import SourceOptions, find_opener, open_splits
from fcmae.data.tools.encode import Encoder
from fcmae.data.tools.journal import Shard
from fcmae.data.tools.pack import pack
from fcmae.data.tools.pieces import Piece, Pieces, open_pieces
from tests.data.archives_helper import picture

OPTIONS = SourceOptions(channels=3, size=16)
AS_THEY_ARE = Encoder(None, 90, "jpeg")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make_birds(folder: Path, splits: tuple[str, ...] = ("train", "val"), count: int = 5) -> Path:
    """Write pictures of two classes, of which train and val share none, and one of train is broken."""
    for number, split in enumerate(splits):
        for kind, name in enumerate(("crow", "tit.blue")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                data = picture(50 * number + 20 * kind + i, 30)
                (folder / split / name / f"{i}.x.JPEG").write_bytes(data)
    (folder / splits[0] / "crow" / "broken.JPEG").write_bytes(b"broken")
    return folder


def packed(source: Path, out: Path, encoder: Encoder = AS_THEY_ARE, shard_bytes: int = 6000) -> list[Shard]:
    return pack(open_pieces(str(source), OPTIONS), out, encoder, shard_bytes, 0, "Packing")


def test_shards_are_data_as_the_folder_they_came_from(tmp_path: Path) -> None:
    source = make_birds(tmp_path / "birds")
    shards = packed(source, tmp_path / "packed")
    assert len(shards) > 3
    assert sum(shard.images for shard in shards) == 20
    assert [shard.broken[0][0] for shard in shards if shard.broken] == ["crow/broken.JPEG"]
    assert (tmp_path / "packed" / "broken.txt").read_text().startswith("crow/broken.JPEG\t")
    for before, after in zip(
        open_splits(str(source), OPTIONS), open_splits(str(tmp_path / "packed"), OPTIONS), strict=True
    ):
        assert after.classes == before.classes == ["crow", "tit.blue"]
        seen = {}
        for i in range(len(after.labels)):
            name = after.source.name(i)
            key = (after.classes[int(after.labels[i])], name.rpartition("-")[2])
            seen[key] = after.source.read(i)
        readable = [i for i in range(len(before.labels)) if before.source.name(i) != "crow/broken.JPEG"]
        assert len(seen) == len(readable)
        for i in readable:
            kind, _, name = before.source.name(i).partition("/")
            assert torch.equal(seen[kind, name.replace(".x.JPEG", "_x.jpg")], before.source.read(i))


def test_images_to_train_on_are_shuffled_and_those_to_measure_on_are_not(tmp_path: Path) -> None:
    packed(make_birds(tmp_path / "birds"), tmp_path / "packed")
    train, val = open_splits(str(tmp_path / "packed"), OPTIONS)
    assert val.labels.tolist() == [0] * 5 + [1] * 5
    assert train.labels.tolist() != sorted(train.labels.tolist())


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    packed(make_birds(tmp_path / "birds"), tmp_path / "packed")
    urls = sorted(map(str, (tmp_path / "packed").glob("val-*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("jpg", "cls"))
    assert [label for _, label in samples] == [0] * 5 + [1] * 5
    val = open_splits(str(tmp_path / "packed"), OPTIONS)[1]
    for i, (image, _) in enumerate(samples):
        assert np.array_equal(image, val.source.read(i).permute(1, 2, 0).numpy())


def test_larger_images_are_resized_and_smaller_ones_keep_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for side in (20, 60, 500):
        (tmp_path / "images" / f"{side}.jpg").write_bytes(picture(3, side))
    packed(tmp_path / "images", tmp_path / "packed", Encoder(40, 90, "jpeg"))
    found = members(tmp_path / "packed")
    assert picture(3, 20) in found.values()
    sizes = sorted(Image.open(io.BytesIO(data)).size for data in found.values())
    assert sizes == [(24, 20), (40, 40), (43, 40)]
    assert not any("cls" in name for name in found)


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def test_images_of_no_file_are_packed_without_loss_as_png(tmp_path: Path) -> None:
    images = torch.randint(256, (8, 1, 16, 12), dtype=torch.uint8)
    piece = Piece("val", ArraySource(images), np.arange(8) % 2)
    pack(Pieces([piece], ["0", "1"]), tmp_path / "packed", Encoder(None, 90, "png"), 500_000, 0, "Packing")
    packed = find_opener(str(tmp_path / "packed")).open_validation(SourceOptions(channels=1, size=16))
    assert packed.labels.tolist() == [0, 1] * 4
    assert all(torch.equal(packed.source.read(i), images[i]) for i in range(8))


def test_packing_again_does_nothing_and_other_settings_or_images_are_refused(tmp_path: Path) -> None:
    source, out = make_birds(tmp_path / "birds"), tmp_path / "packed"
    first = packed(source, out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert packed(source, out) == first
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times
    with pytest.raises(UserError, match="quality 90, not 80"):
        packed(source, out, Encoder(None, 80, "jpeg"))
    (source / "train" / "crow" / "new.jpg").write_bytes(picture(1))
    with pytest.raises(UserError, match="other images"):
        packed(source, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        packed(source, tmp_path / "mine")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    source, out = make_birds(tmp_path / "birds"), tmp_path / "packed"
    packed(source, out)
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out / "pack.jsonl")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process"):
            packed(source, out)
        other.communicate()


@pytest.mark.parametrize("step", [14, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_instant_changes_no_byte(tmp_path: Path, step: int) -> None:
    source = make_birds(tmp_path / "birds", ("train", "val"), 2)
    script = Path(__file__).with_name("pack_kills.py")
    done = subprocess.run(
        [sys.executable, script, source, tmp_path, str(step)], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 30
