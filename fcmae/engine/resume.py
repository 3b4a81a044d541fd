"""Going on from a checkpoint: what it has to agree with, and its state taken."""

from pathlib import Path
from typing import Any

import torch

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.parallel import ParallelTask
from fcmae.engine.progress import Progress
from fcmae.engine.run_folder import RunFolder


def read_newest(checkpoints: Checkpoints, parallel: ParallelTask, run: RunFolder) -> dict[str, Any] | None:
    """Read the newest good checkpoint, if there is one.

    Raises:
        UserError: every one is damaged, or it is not one that this run can go on from
    """
    state = checkpoints.newest()
    if state is not None:
        require_same_data(run, state["data"], parallel.task.data())
        misfit = parallel.misfit(state)
        if misfit is not None:
            raise does_not_fit(checkpoints.folder, misfit)
    return state


def restore(
    state: dict[str, Any],
    parallel: ParallelTask,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    folder: Path,
) -> Progress:
    """Take the state of a checkpoint, but the optimiser's options as the settings have them now.

    Args:
        state: of the checkpoint, whole in rank zero
        parallel, optimizer, scaler: what gets it
        folder: of the checkpoints

    Returns:
        how far the run is

    Raises:
        UserError: it does not fit the network, the optimiser or the task
    """
    groups = optimizer.param_groups
    own = [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in groups]
    try:
        parallel.load_state_dict(state, optimizer)
        if scaler.is_enabled() and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        progress = Progress(**state["progress"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if current_world().size > 1:  # another process may have ended
            raise
        raise does_not_fit(folder, f"{type(error).__name__}: {error}") from error
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
    return progress


def does_not_fit(folder: Path, reason: str) -> UserError:
    """Return the error of a checkpoint in a folder that cannot be restored."""
    return UserError(
        f"{folder}: the newest checkpoint does not fit this run's network or settings "
        f"({' '.join(reason.split())[:300]}): move it away to go on from the one before it, or choose "
        "another --out"
    )


def require_same_data(run: RunFolder, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuse to go on with other images than those that a checkpoint was trained on.

    Args:
        run: the run
        there, here: what tells the images apart from others, of the checkpoint and now

    Raises:
        UserError: they differ
    """
    if there != here:
        changed = [f"{name} {there.get(name)} there, {here.get(name)} here" for name in here | there]
        raise UserError(
            f"{run.path}: its checkpoints were trained on other images than those it lists now "
            f"({'; '.join(changed)}). Bring the former list back, or start anew in another --out"
        )
