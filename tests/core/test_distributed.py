"""How a process learns which one of a run it is, and what processes that cannot meet say."""

import logging
import socket
import warnings
from pathlib import Path

import pytest
import torch

from fcmae.core.distributed import (
    World,
    find_world,
    from_rank_zero,
    joined,
    max_over_processes,
    mean_over_processes,
    silence,
)
from fcmae.core.errors import TransientError, UserError
from tests.engine.toy_parallel import refuse_in_processes

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
STEP = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *STEP, "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_world() == World(0, 1, 0, 1)
    monkeypatch.setenv("SLURM_PROCID", "0")  # a batch script: no task of a step
    monkeypatch.setenv("SLURM_NTASKS", "16")
    assert find_world() == World()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # srun --pty bash
    assert find_world() == World()


@pytest.mark.parametrize("per_node", ["8(x2)", "8,8", "8"])
def test_srun(monkeypatch: pytest.MonkeyPatch, per_node: str) -> None:
    for name, value in zip(STEP, ("11", "16", "3", per_node), strict=True):
        monkeypatch.setenv(name, value)
    assert find_world() == World(11, 16, 3, 8)


def test_torchrun_wins_over_the_srun_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(STEP, ("1", "2", "0", "1(x2)"), strict=True):
        monkeypatch.setenv(name, value)
    for name, value in zip(NAMES, ("5", "8", "1", "4"), strict=False):
        monkeypatch.setenv(name, value)
    assert find_world() == World(5, 8, 1, 4)


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("x", "2"), ("0", "")])
def test_contradictory_variables_are_refused(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UserError, match="RANK"):
        find_world()


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
