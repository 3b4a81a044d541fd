"""However a run is spread over processes, it is the same run."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.engine.checkpoint import Checkpoints, load_checkpoint, parts_of
from fcmae.engine.run_folder import RunFolder
from fcmae.models.storage import read_tensors
from tests.engine.toy_parallel import (
    STEPS_PER_EPOCH,
    TOTAL,
    ParallelToy,
    Scenario,
    call_in_processes,
    hand_on,
    in_processes,
    run_parallel_toy,
)

STOP = 6  # in mid-epoch
FSDP = {"sharding": "fsdp"}
HSDP = {"sharding": "hsdp", "shard_processes": 2}
AVERAGES: dict[str, Any] = {"averages": True}


def logged(folder: Path, name: str) -> list[Any]:
    return [record[name] for record in RunFolder(folder).records() if name in record]


def newest(folder: Path) -> dict[str, Any]:
    state = Checkpoints(folder / "checkpoints").newest()
    assert state is not None
    return state


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    state = newest(folder)
    assert state["progress"]["step"] == TOTAL
    weights: dict[str, torch.Tensor] = state["model"]
    averages = {f"averaged.{name}": each for name, each in state.get("ema", {}).items()}
    return weights | averages


def assert_same_run(folder: Path, reference: Path) -> None:
    """To float32 rounding: sums over processes are in another order."""
    for name in ("loss", "error", "grad_norm", "epoch_loss", "weights", "averaged"):
        ours, theirs = torch.tensor(logged(folder, name)), torch.tensor(logged(reference, name))
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(final_weights(folder), final_weights(reference), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs: by one process, by several, and by one number of processes after another."""
    folder = tmp_path_factory.mktemp("runs")
    run_parallel_toy(folder / "one", ParallelToy(**AVERAGES))
    stops: dict[str, Any] = {"event": (0, STOP), "what": signal.SIGTERM, **AVERAGES}
    run_parallel_toy(folder / "one-fsdp", ParallelToy(**stops))
    run_parallel_toy(folder / "one-ddp", ParallelToy(**stops))
    stops_at_last_rank: dict[str, Any] = {"event": (1, STOP), "what": signal.SIGUSR2, **AVERAGES}
    scenarios: list[Scenario] = [
        (folder / "ddp", {"accumulation_steps": 2, **AVERAGES}, {}),
        (folder / "fsdp", {"accumulation_steps": 2, **AVERAGES}, FSDP),
        (folder / "bf16", AVERAGES, {"reduce_dtype": "bf16"}),
        (folder / "fsdp-bf16", AVERAGES, {"reduce_dtype": "bf16", **FSDP}),
        (folder / "fp16", AVERAGES, {"precision": "fp16"}),
        (folder / "fsdp-fp16", AVERAGES, {"precision": "fp16", **FSDP}),
        (folder / "autocast", AVERAGES, {"precision": "bf16", **FSDP}),
        (folder / "gathered", AVERAGES, {"precision": "bf16", "param_dtype": "bf16", **FSDP}),
        (folder / "one-fsdp", AVERAGES, FSDP),
        (folder / "one-ddp", AVERAGES, {}),
        (folder / "ddp-one", stops_at_last_rank, {}),
        (folder / "fsdp-one", stops_at_last_rank, FSDP),
        (folder / "ddp-fsdp", stops_at_last_rank, {}),
        (folder / "ddp-fsdp", AVERAGES, FSDP),
        (folder / "fsdp-ddp", stops_at_last_rank, FSDP),
        (folder / "fsdp-ddp", AVERAGES, {}),
    ]
    assert in_processes(2, scenarios) == [0, 0]
    for name in ("ddp-one", "fsdp-one"):
        assert logged(folder / name, "step")[-1] == STOP
        run_parallel_toy(folder / name, ParallelToy(**AVERAGES))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ddp", "fsdp", "one-fsdp", "one-ddp", "ddp-one", "fsdp-one", "ddp-fsdp", "fsdp-ddp"]
)
def test_two_processes_and_resuming_on_others_change_nothing(runs: Path, name: str) -> None:
    assert_same_run(runs / name, runs / "one")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bf16", "fsdp-bf16"])
def test_bf16_reduction_is_close_and_not_the_same(runs: Path, name: str) -> None:
    ours, theirs = (torch.tensor(logged(runs / each, "loss")) for each in (name, "one"))
    torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.01)
    rounded, exact = (logged(runs / each, "grad_norm")[0] for each in (name, "ddp"))
    assert 1e-5 < abs(rounded - exact) / exact < 1e-2


@pytest.mark.slow
def test_fp16_scales_losses_of_a_sharded_model_as_of_a_whole_one(runs: Path) -> None:
    ours, theirs = (torch.tensor(logged(runs / each, "loss")) for each in ("fsdp-fp16", "fp16"))
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.002)
    scales = [newest(runs / each)["scaler"]["scale"] for each in ("fsdp-fp16", "fp16")]
    assert scales[0] == scales[1] > 1


@pytest.mark.slow
def test_weights_gathered_in_the_type_that_is_computed_in_change_little(runs: Path) -> None:
    """Norms see rounded weights then, linear layers do anyway; what is updated and saved is float32."""
    ours, theirs = (torch.tensor(logged(runs / each, "loss")) for each in ("gathered", "autocast"))
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.005)
    assert {each.dtype for each in final_weights(runs / "gathered").values()} == {torch.float32}


@pytest.mark.slow
def test_four_processes(runs: Path, tmp_path: Path) -> None:
    """Each for itself, and two and two that hold a copy together; a run of the latter goes on in one."""
    stops: dict[str, Any] = {"event": (3, STOP), "what": signal.SIGTERM, **AVERAGES}
    scenarios: list[Scenario] = [
        (tmp_path / "ddp", AVERAGES, {}),
        (tmp_path / "fsdp", AVERAGES, FSDP),
        (tmp_path / "hsdp", AVERAGES, HSDP),
        (tmp_path / "one", stops, HSDP),
    ]
    assert in_processes(4, scenarios) == [0] * 4
    run_parallel_toy(tmp_path / "one", ParallelToy(**AVERAGES))
    for name in ("ddp", "fsdp", "hsdp", "one"):
        assert_same_run(tmp_path / name, runs / "one")


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp", "hsdp"])
def test_state_that_is_handed_on_is_the_same_to_the_bit(runs: Path, sharding: str) -> None:
    assert call_in_processes(2, hand_on, runs / "one", {"sharding": sharding}) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", [{}, FSDP], ids=["ddp", "fsdp"])
def test_checkpoints_are_written_beside_the_next_steps(
    runs: Path, tmp_path: Path, sharding: dict[str, Any]
) -> None:
    loop = {"async_checkpoints": True, "save_minutes": 1e-9, **sharding}
    assert in_processes(2, [(tmp_path, AVERAGES, loop)]) == [0, 0]
    assert_same_run(tmp_path, runs / "one")


@pytest.mark.slow
def test_shards_of_a_checkpoint_are_whole_or_it_is_not_read(runs: Path) -> None:
    """One process reads the parts that two have written; of what is damaged, the checkpoint before."""
    checkpoints = Checkpoints(runs / "fsdp" / "checkpoints")
    folders = sorted(checkpoints.folder.glob("*.shards-*"))
    assert [parts_of(file) for file in checkpoints.files()] == [[folder] for folder in folders]
    assert len(folders) == 2
    for file in sorted(folders[-1].iterdir()):
        content = file.read_bytes()
        for damaged in (bytes([content[0] ^ 1]) + content[1:], content[:-1], None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            assert newest_step(checkpoints) == TOTAL - STEPS_PER_EPOCH
        file.write_bytes(content)
    weights, _ = read_tensors(checkpoints.files()[-1])
    torch.testing.assert_close(weights, newest(runs / "fsdp")["model"], rtol=0, atol=0)
    best = load_checkpoint(checkpoints.best)
    assert best.keys() == newest(runs / "fsdp").keys() - {"optimizer"}
    stranger = folders[-1] / "stranger.safetensors"
    stranger.write_bytes(b"")
    assert newest_step(checkpoints) == TOTAL - STEPS_PER_EPOCH
    stranger.unlink()
    assert newest_step(checkpoints) == TOTAL


def newest_step(checkpoints: Checkpoints) -> int:
    state = checkpoints.newest()
    assert state is not None
    step: int = state["progress"]["step"]
    return step


@pytest.mark.slow
def test_blocks_of_a_sharded_model_are_compiled(runs: Path, tmp_path: Path) -> None:
    assert in_processes(2, [(tmp_path, AVERAGES, {"compile": True, **FSDP})]) == [0, 0]
    assert_same_run(tmp_path, runs / "one")


def test_nan_in_one_process_stops_all_and_names_the_files_of_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scenario: Scenario = (tmp_path, {"event": (1, STOP)}, {"log_every": 100, "save_minutes": 1e-9})
    assert in_processes(2, [scenario], heard=True) == [1, 2]
    [record] = [each for each in RunFolder(tmp_path).records() if "not_finite" in each]
    assert record["files"] == [f"rank0_step{STOP}.png", f"rank1_step{STOP}.png"]
    assert Checkpoints(tmp_path / "checkpoints").files()[-1].name == f"step_{STOP - 1:09d}.pt"
    error = capfd.readouterr().err
    assert "process 0 of 2" in error
    assert error.count("the loss of step") == 1 or "process 1" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "step", "limit"),
    [
        (signal.SIGKILL, STOP, "loop.timeout_minutes"),
        (signal.SIGSTOP, STOP, "loop.timeout_minutes"),
        (signal.SIGSTOP, 1, "loop.start_minutes"),
    ],
    ids=["dead", "stuck", "stuck-at-start"],
)
def test_lost_process_ends_the_others_and_the_run_goes_on(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], what: int, step: int, limit: str
) -> None:
    event = {"event": (1, step), "what": what, **AVERAGES}
    scenario: Scenario = (tmp_path, event, {"save_minutes": 1e-9})
    limits = {"timeout_minutes": 1.0, "start_minutes": 1.0, limit.removeprefix("loop."): 0.1}
    codes = in_processes(2, [scenario], heard=True, **limits)
    assert codes[0] == 1
    error = capfd.readouterr().err
    assert "This is process 0 of 2" in error
    assert limit in error
    run_parallel_toy(tmp_path, ParallelToy(**AVERAGES))
    assert_same_run(tmp_path, runs / "one")


@pytest.mark.slow
def test_processes_that_seldom_ask_each_other_stop_together(tmp_path: Path) -> None:
    stops: dict[str, Any] = {"event": (1, 2), "what": signal.SIGTERM}
    assert in_processes(2, [(tmp_path, stops, {"agree_seconds": 1000.0})]) == [0, 0]
    assert logged(tmp_path, "step")[-1] in (3, 4)  # asked after steps 1, 3 and 4, the last of the epoch
