"""Going on from a checkpoint: what it has to agree with, and its state taken."""

from pathlib import Path
from typing import Any

import torch

from fcmae.core.distributed import max_over_processes
from fcmae.core.errors import UserError
from fcmae.engine.parallel import ParallelTask
from fcmae.engine.progress import Progress
from fcmae.engine.run_folder import RunFolder


def restore(
    state: dict[str, Any],
    parallel: ParallelTask,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    folder: Path,
) -> Progress:
    """Take the state of a checkpoint, but the optimiser's options as the settings have them now.

    Args:
        state: of the checkpoint
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
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{folder}: the newest checkpoint does not fit this run's network or settings "
            f"({type(error).__name__}: {reason}): move it away to go on from the one before it, or choose "
            "another --out"
        ) from error
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
    return progress


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


def require_same_start(step: int, folder: Path) -> None:
    """Refuse to go on where the processes see different checkpoints.

    Args:
        step: of the checkpoint that this process found
        folder: of the checkpoints

    Raises:
        UserError: another process found another one
    """
    first, last = max_over_processes(-step, step)
    if -first != last:
        raise UserError(
            f"{folder}: this process finds step {step} there, others up to {last}: is the folder on a file "
            "system that all machines share?"
        )
