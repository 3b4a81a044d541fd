"""How processes meet, what those that cannot meet say, and what it takes to keep in touch."""

import logging
import socket
import warnings
from pathlib import Path

import pytest
import torch

from fcmae.core.distributed import (
    from_rank_zero,
    joined,
    max_over_processes,
    mean_over_processes,
    silence,
)
from fcmae.core.errors import TransientError, UserError
from fcmae.core.world import World
from tests.engine.toy_parallel import call_in_processes, count_sockets, refuse_in_processes

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "SLURM_STEP_NUM_TASKS", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)


def two_processes(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name, value in zip(NAMES, ("0", "2", "0", "2", "127.0.0.1", str(port)), strict=True):
        monkeypatch.setenv(name, value)


def test_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        two_processes(monkeypatch, port)
        message = f"process 0 of 2 .* cannot meet at 127.0.0.1:{port} .*MASTER_PORT"
        with pytest.raises(TransientError, match=message), joined("cpu", timeout_minutes=0.05):
            pass


def test_processes_do_not_choose_a_numbered_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    two_processes(monkeypatch, 1)
    message = "--device cuda:1: 2 processes choose their own"
    with pytest.raises(UserError, match=message), joined("cuda:1", timeout_minutes=0.05):
        pass


def test_no_time_to_wait_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two_processes(monkeypatch, 1)
    with pytest.raises(UserError, match=r"timeout_minutes is 0"), joined("cpu", timeout_minutes=0.0):
        pass


def test_one_process_agrees_with_itself_without_torch_distributed() -> None:
    with joined("cpu", timeout_minutes=1.0) as world:
        assert world == World()
        assert max_over_processes(3, -1) == [3, -1]
        assert from_rank_zero(lambda: "made") == "made"
        values = torch.rand(3)
        assert mean_over_processes(values) is values
    assert not torch.distributed.is_initialized()


def test_rank_zero_prepares_and_the_others_are_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert refuse_in_processes(2) == [1, 2]
    error = capfd.readouterr().err
    assert "process 0 of 2" in error
    assert "process 1 of 2" not in error


def test_only_rank_zero_talks(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("fcmae.models.weights")
    with warnings.catch_warnings(record=True) as warned, silence():
        warnings.warn("of torch", stacklevel=1)
        print("done")
        logger.warning("head: initialised")
        logger.error("a worker of this process has ended")
    assert not warned
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["a worker of this process has ended"]
    logger.warning("said again")
    assert caplog.messages[-1] == "said again"


@pytest.mark.slow
def test_sockets_of_a_process_grow_with_the_logarithm_of_their_number() -> None:
    for size in (2, 8):
        [first, *others] = call_in_processes(size, count_sockets)
        tree = size.bit_length() - 1  # connections of a broadcast, or of a barrier in one direction
        assert max(others) <= 2 + 2 + 2 * tree  # store, listener, ring, trees
        assert first <= 3 + size + 2 + 2 * tree  # it serves the store
