"""What a run keeps of a step whose loss or gradient was not finite: the state before it, and its batch."""

import json
import os
import pickle
import shutil
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from fcmae.core.distributed import current_world, gather_lists
from fcmae.core.errors import UserError
from fcmae.data.dataset import Batch
from fcmae.engine.checkpoint import Checkpoints, parts_of
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.task import Task

STATE, STEP, SETTINGS = "state.pt", "step.json", "config.yaml"


def keep_step(
    run: RunFolder, checkpoints: Checkpoints, task: Task, step: int, accumulation_steps: int
) -> Path | None:
    """Keep the checkpoint before a step, its batch and the settings, as well as that can be done.

    The state just before the step is gone by then: the steps from the checkpoint on give it again. The batch
    is read anew. All processes call this.

    Args:
        run: the folder, in whose `replay` all is kept
        checkpoints: of the run
        task: gives the batch
        step: its number, from 1
        accumulation_steps: micro-batches of a step, in each process

    Returns:
        the newest checkpoint, if there is one
    """
    newest = max(checkpoints.files(), default=None)
    if current_world().is_rank_zero:
        with suppress(OSError):
            shutil.rmtree(run.replay, ignore_errors=True)
            run.replay.mkdir()
            shutil.copyfile(run.config, run.replay / SETTINGS)
            if newest is not None:
                link_or_copy(newest, run.replay / STATE)
                for folder in parts_of(newest):
                    (run.replay / folder.name).mkdir()
                    for file in folder.iterdir():
                        link_or_copy(file, run.replay / folder.name / file.name)
            known = {"step": step, "processes": current_world().size}
            (run.replay / STEP).write_text(json.dumps(known))
    gather_lists([])  # the folder is there
    with suppress(Exception):  # the batch may not be there any more, and what is said next matters more
        batches = list(islice(task.batches(step - 1, step), accumulation_steps))
        torch.save(batches, run.replay / f"batches-{current_world().rank:05}.pt")
    return newest


def link_or_copy(source: Path, target: Path) -> None:
    """Have a file under a second name, which stays when the first is deleted.

    Raises:
        OSError: the folder cannot be written
    """
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def read_step(kept: Path) -> dict[str, Any]:
    """Return what is known of the kept step: its number, the files of its batch, and the processes.

    Raises:
        UserError: none is kept, or it is damaged
    """
    path = kept / STEP
    try:
        step = json.loads(path.read_text(encoding="utf-8"))
        return {**step, "step": int(step["step"]), "processes": int(step["processes"])}
    except FileNotFoundError:
        raise UserError(f"{kept.parent} keeps no step: each of its losses was finite") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged: the same command on the run gets to the step again") from None


def read_batches(kept: Path) -> list[Any]:
    """Return the micro-batches that are kept, of all processes; none where they could not be kept or read."""
    batches: list[Any] = []
    try:
        for path in sorted(kept.glob("batches-*.pt")):
            with torch.serialization.safe_globals([Batch]):
                batches += torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        return []
    return batches
