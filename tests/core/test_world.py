"""How a process learns which one of a run it is."""

import pytest

from fcmae.core.errors import UserError
from fcmae.core.world import World, find_world

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
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
