"""A step that was not finite is kept, and taken again bit for bit."""

import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.engine.kept import read_batches, read_step
from fcmae.engine.replay import Replayed, replay
from fcmae.engine.run_folder import RunFolder
from tests.engine.toy_run import ToyTask, run_toy, toy_config


def broken_run(folder: Path, **options: Any) -> str:
    """Have step 8 overflow, in the middle of the second epoch; return the message."""
    with pytest.raises(UserError) as caught:
        run_toy(folder, Overflowing(**options), log_every=100)
    return str(caught.value)


class Overflowing(ToyTask):
    """A toy task whose last layer is given what overflows in step 8, or another one.

    Args:
        at: number of the step
    """

    def __init__(self, at: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.at, self.scale = at, Scale()
        self.model[5] = torch.nn.Sequential(self.scale, self.model[5])

    def step(self, batch: tuple[int, torch.Tensor]) -> Any:
        self.scale.factor = math.inf if batch[0] == self.at else 1.0
        return super().step(batch)


class Scale(torch.nn.Module):
    """A factor."""

    factor = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def again(folder: Path, **options: Any) -> Replayed:
    """Take the step again, elsewhere."""
    here = RunFolder(folder.with_name("here"))
    here.path.mkdir(exist_ok=True)
    config = toy_config(accumulation_steps=options.get("accumulation_steps", 1), loggers=())
    return replay(lambda device: Overflowing(**options), config, here, folder / "replay")


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_step_is_taken_again_with_what_overflows(tmp_path: Path, accumulation_steps: int) -> None:
    folder = tmp_path / "run"
    message = broken_run(folder, accumulation_steps=accumulation_steps)
    assert "step_000000005.pt, saved before it, is intact" in message
    assert f"fcmae replay {folder}" in message
    replayed = again(folder, accumulation_steps=accumulation_steps)
    assert replayed.step == 8
    assert not math.isfinite(replayed.values["loss"])
    first = next(each.name for each in replayed.activations if not math.isfinite(each.value))
    assert first == "5.0"  # the layers before it give nothing wrong
    names = [each.name for each in replayed.activations]
    assert names[:6] == ["0", "1", "2", "3", "4", "5.0"]
    assert len(replayed.gradients) == 6 * accumulation_steps


def test_the_state_before_the_step_is_that_of_the_run(tmp_path: Path) -> None:
    """What the step before gave is in the checkpoint of a run that was stopped there."""
    broken_run(tmp_path / "run")
    run_toy(tmp_path / "stopped", Overflowing(signal_after=(7, signal.SIGTERM)))
    weights: list[torch.Tensor] = []

    class Watching(Overflowing):
        def step(self, batch: Any) -> Any:
            if batch[0] == 8:
                weights.append(self.first_weights)
            return super().step(batch)

    here = RunFolder(tmp_path / "here")
    here.path.mkdir()
    assert math.isfinite(
        replay(lambda device: Watching(at=0), toy_config(), here, tmp_path / "run/replay").values["loss"]
    )
    state = torch.load(tmp_path / "stopped/checkpoints/step_000000007.pt", weights_only=True)
    assert torch.equal(weights[0], state["model"]["0.weight"])


def test_without_a_checkpoint_none_is_claimed_and_the_start_is_replayed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="No checkpoint was saved before it"):
        run_toy(folder, Overflowing(at=3), log_every=100, save_every=100)
    assert not (folder / "replay/state.pt").exists()
    assert not math.isfinite(again(folder, at=3).values["loss"])


def test_what_is_kept_outlives_the_checkpoints_of_a_run_that_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    broken_run(folder)
    run_toy(folder, Overflowing(at=0))
    shutil.rmtree(folder / "checkpoints")
    assert not math.isfinite(again(folder).values["loss"])


def test_batches_that_cannot_be_read_are_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    broken_run(folder)
    [path] = (folder / "replay").glob("batches-*.pt")
    assert len(read_batches(folder / "replay")) == 1
    path.write_bytes(b"damaged")
    assert read_batches(folder / "replay") == []
    assert not math.isfinite(again(folder).values["loss"])


def test_no_step_and_a_damaged_one_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keeps no step"):
        read_step(tmp_path / "replay")
    (tmp_path / "step.json").write_text("[]")
    with pytest.raises(UserError, match=r"step\.json is damaged"):
        read_step(tmp_path)
