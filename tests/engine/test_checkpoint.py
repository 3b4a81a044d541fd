"""Checkpoints: atomic, few, checked, and safe to read."""

import errno
import logging
import os
import pickle
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.core.errors import TransientError, UserError
from fcmae.engine.checkpoint import FORMAT, Checkpoints, load_checkpoint
from fcmae.models.storage import read_tensors


def state(value: float) -> dict[str, Any]:
    parts = {"format": FORMAT, "optimizer": {}, "scaler": {}, "data": {}}
    return {"model": {"weight": torch.full((1000,), float(value))}, "progress": {"step": int(value)}, **parts}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 100 kB: the system refuses to write on, as it does when the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def flip_byte_of_weights(path: Path) -> None:
    """Damage that leaves the file readable: only its checksum tells."""
    content = bytearray(path.read_bytes())
    pattern = torch.full((4,), 2.0).numpy().tobytes()
    content[content.index(pattern) + 40] ^= 1
    path.write_bytes(content)


def test_newest_comes_back_bit_for_bit(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    checkpoints.save(state(1), 1)
    checkpoints.save(state(2), 2)
    loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded["progress"] == {"step": 2}
    assert torch.equal(loaded["model"]["weight"], state(2)["model"]["weight"])


def test_only_the_newest_few_and_the_best_are_kept(checkpoints: Checkpoints) -> None:
    for step in range(1, 6):
        checkpoints.save(state(step), step, best=step == 2)
    assert [path.name for path in checkpoints.files()] == ["step_000000004.pt", "step_000000005.pt"]
    assert load_checkpoint(checkpoints.best)["progress"] == {"step": 2}


def test_best_is_copied_where_links_are_not_possible(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    checkpoints.save(state(1), 1, best=True)
    assert load_checkpoint(checkpoints.best)["progress"] == {"step": 1}


def test_one_flipped_bit_falls_back_and_says_so(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(state(1), 1)
    flip_byte_of_weights(checkpoints.save(state(2), 2))
    with caplog.at_level(logging.WARNING):
        loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded["progress"] == {"step": 1}
    assert "step_000000002.pt: damaged" in caplog.text


@pytest.mark.parametrize("sample", [200, pytest.param(None, marks=pytest.mark.slow)])
def test_no_single_flipped_bit_is_read(tmp_path: Path, sample: int | None) -> None:
    """Some or all bits of the smallest checkpoint: nothing but an error that names it, whatever is hit."""
    small = {"model": {"weight": torch.ones(2)}, "progress": {"step": 1}}
    path = Checkpoints(tmp_path, keep=1).save(small, 1)
    content = path.read_bytes()
    assert load_checkpoint(path)["model"]["weight"].tolist() == [1, 1]
    bits = range(8 * len(content))
    for bit in bits if sample is None else random.Random(0).sample(bits, sample):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=path.name):
            load_checkpoint(path)


def test_a_damaged_checkpoint_gives_no_weights(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path, keep=1).save(state(2), 1)
    assert torch.equal(read_tensors(path)[0]["weight"], state(2)["model"]["weight"])
    flip_byte_of_weights(path)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path)


def test_truncated_file_falls_back(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), 1)
    path = checkpoints.save(state(2), 2)
    path.write_bytes(path.read_bytes()[:-100])
    loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded["progress"] == {"step": 1}


def test_damaged_future_does_not_outlive_the_next_save(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), 1)
    checkpoints.save(state(9), 9).write_bytes(b"damaged")
    checkpoints.save(state(2), 2)
    assert [path.name for path in checkpoints.files()] == ["step_000000001.pt", "step_000000002.pt"]


def test_all_damaged_is_an_error(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), 1).write_bytes(b"")
    with pytest.raises(UserError, match="all 1 checkpoints are damaged"):
        checkpoints.newest()


def test_all_that_cannot_be_checkpoints_are_told_before_they_are_read(checkpoints: Checkpoints) -> None:
    checkpoints.check()
    first, second = checkpoints.save(state(1), 1), checkpoints.save(state(2), 2)
    second.write_bytes(b"damaged")
    checkpoints.check()
    first.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{second}: damaged.*delete {checkpoints.folder.parent} .*--out"):
        checkpoints.check()


@pytest.mark.parametrize("content", [b"", b"not a zip", pickle.dumps({"model": 1})])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pt: damaged, or not a checkpoint"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "trapped"),)

    path = tmp_path / "a.pt"
    torch.save({"model": Trap()}, path)
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "trapped").exists()


def test_absent_checkpoint_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(UserError, match="folder lies in the place of a file"):
        load_checkpoint(tmp_path)


@pytest.mark.usefixtures("small_disk")
def test_full_disk_spares_the_former_checkpoint(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), 1)
    large = {"model": {"weight": torch.zeros(1_000_000)}}
    with pytest.raises(
        UserError, match=r"step_000000002\.pt: .*limit.*1 saved before it, untouched; \d+ MB are free"
    ):
        checkpoints.save(large, 2)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_000000001.pt"]
    loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded["progress"] == {"step": 1}


def test_what_a_killed_process_left_is_swept(checkpoints: Checkpoints) -> None:
    checkpoints.folder.mkdir()
    (checkpoints.folder / "step_000000007.pt.tmp").write_bytes(b"half")
    assert checkpoints.newest() is None
    checkpoints.save(state(1), 1)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_000000001.pt"]


def test_what_a_process_killed_while_tidying_left_is_swept_later(checkpoints: Checkpoints) -> None:
    for step in range(1, 4):
        checkpoints.save(state(step), step)
    (checkpoints.folder / "step_000000001.pt").hardlink_to(checkpoints.files()[0])
    (checkpoints.folder / "best.pt.tmp").hardlink_to(checkpoints.files()[0])
    checkpoints.tidy(3)
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["step_000000002.pt", "step_000000003.pt"]


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loop\.keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_what_no_run_saved_falls_back(checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints.save(state(1), 1)
    checkpoints.save({"model": {}}, 2)
    loaded = checkpoints.newest()
    assert loaded is not None
    assert loaded["progress"] == {"step": 1}
    assert "step_000000002.pt: no checkpoint of a run" in caplog.text


def test_a_newer_version_is_named_and_its_checkpoint_stays(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), 1)
    path = checkpoints.save({**state(2), "format": FORMAT + 1}, 2)
    with pytest.raises(UserError, match=rf"{path.name}: .*another version .*format {FORMAT + 1}"):
        checkpoints.newest()


def test_a_checkpoint_that_cannot_be_read_now_is_not_given_up(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    for step in (1, 2):
        checkpoints.save(state(step), step)
    monkeypatch.setattr("fcmae.engine.checkpoint.is_intact", fail)
    with pytest.raises(TransientError, match=r"step_000000002\.pt: Input/output error"):
        checkpoints.newest()


def test_a_run_that_was_deleted_is_not_begun_anew(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file.*its folder is gone"):
        Checkpoints(tmp_path / "deleted" / "checkpoints").save(state(1), 1)
    assert not (tmp_path / "deleted").exists()
