"""Checkpoints are written at once or beside the next steps, and what goes wrong is told."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.saving import Saver
from tests.engine.test_checkpoint import state


def saver(folder: Path, told: list[Any], asynchronous: bool) -> Saver:
    return Saver(
        Checkpoints(folder),
        lambda state, best: told.append((state["progress"]["step"], best)),
        sharded=False,
        asynchronous=asynchronous,
    )


@pytest.mark.parametrize("asynchronous", [False, True])
def test_training_goes_on_and_the_checkpoint_is_as_it_was(tmp_path: Path, asynchronous: bool) -> None:
    told: list[Any] = []
    saving = saver(tmp_path / "checkpoints", told, asynchronous)
    for step in (1, 2):
        values = state(step)
        saving.save(values, step, best=step == 1)
        values["model"]["weight"].fill_(-1.0)  # as the next step does
    saving.wait()
    assert told == [(1, True), (2, False)]
    newest = saving.checkpoints.newest()
    assert newest is not None
    assert torch.equal(newest["model"]["weight"], torch.full((1000,), 2.0))
    assert saving.checkpoints.best.samefile(saving.checkpoints.files()[0])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_cannot_be_written_is_told_at_the_latest_by_the_next(tmp_path: Path, asynchronous: bool) -> None:
    saving = saver(tmp_path / "deleted" / "checkpoints", [], asynchronous)
    if asynchronous:
        saving.save(state(1), 1, best=False)
    with pytest.raises(UserError, match="cannot be written"):
        saving.save(state(2), 2, best=False)
    saving.wait()
