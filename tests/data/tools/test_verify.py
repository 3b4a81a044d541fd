"""What verifying finds: images that cannot be read, and shards that are not as they were packed."""

import os
from pathlib import Path

import pytest

from fcmae.data.sources import SourceOptions
from fcmae.data.tools.encode import Encoder
from fcmae.data.tools.journal import JOURNAL
from fcmae.data.tools.pack import pack
from fcmae.data.tools.pieces import open_pieces
from fcmae.data.tools.verify import verify_images, verify_shards
from tests.data.archives_helper import picture, write_tar

OPTIONS = SourceOptions(channels=3, size=16)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_named_with_the_reason(tmp_path: Path, workers: int) -> None:
    files = {"a.jpg": picture(1), "b.jpg": b"no image", "c.jpg": picture(2)[:400], "d.jpg": picture(3)}
    write_tar(tmp_path / "x.tar", files)
    faults = verify_images(open_pieces(str(tmp_path / "x.tar"), OPTIONS), workers, "Verifying")
    assert [name for name, _ in faults] == ["x.tar/b.jpg", "x.tar/c.jpg"]
    assert all(reason for _, reason in faults)


def test_a_changed_or_missing_shard_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {f"{i}.jpg": picture(i) for i in range(12)})
    out = tmp_path / "packed"
    pack(open_pieces(str(tmp_path / "x.tar"), OPTIONS), out, Encoder(None, 90, "jpeg"), 4000, 0, "Packing")
    assert verify_shards(out) == []
    first, second, *_ = sorted(out.glob("*.tar"))
    data = bytearray(first.read_bytes())
    data[1300] ^= 1
    first.write_bytes(data)
    os.truncate(second, 100)
    faults = dict(verify_shards(out))
    assert set(faults) == {first.name, second.name}
    second.unlink()
    assert "no such file" in dict(verify_shards(out))[second.name]
    (out / JOURNAL).unlink()
    assert verify_shards(out) == []
