"""A step whose loss or gradient was not finite, taken again and watched."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fcmae.core.device import pick_device
from fcmae.engine.checkpoint import load_checkpoint
from fcmae.engine.config import TrainingConfig
from fcmae.engine.kept import STATE, read_batches, read_step
from fcmae.engine.metrics import read_values
from fcmae.engine.resume import restore
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.task import Task
from fcmae.engine.trainer import Trainer


@dataclass(frozen=True)
class Magnitude:
    """The largest magnitude of what a module gave, or of a parameter's gradient: infinite or NaN if any is.

    Args:
        name: of the module or parameter
        value: the magnitude
    """

    name: str
    value: float


@dataclass(frozen=True)
class Replayed:
    """A step taken again.

    Args:
        step: its number, from 1
        values: its loss, gradient norm and further metrics
        activations: of the network's modules, in the order in which they were computed, once for each call
        gradients: of its parameters, in the order in which the backward pass reached them
    """

    step: int
    values: dict[str, float]
    activations: list[Magnitude]
    gradients: list[Magnitude]


def replay(
    make_task: Callable[[torch.device], Task], config: TrainingConfig, run: RunFolder, kept: Path
) -> Replayed:
    """Take the step that a run kept once more: from the checkpoint before it, with its own batch.

    The steps between are taken as well, with images read anew. With one process, on the same device, all is
    as it was to the bit; what several processes drew for their parts of a batch is not.

    Args:
        make_task: makes the task of the run, on a device
        config: the settings of the run
        run: a folder for what the steps write, not that of the run that kept the step
        kept: the folder of what is kept

    Raises:
        UserError: what is kept is damaged
    """
    device = pick_device(config.device)
    torch.manual_seed(config.seed)
    trainer = Trainer(make_task(device), config, device, run)
    step = read_step(kept)["step"]
    if (kept / STATE).exists():
        state = load_checkpoint(kept / STATE)
        trainer.start(restore(state, trainer.parallel, trainer.optimizer, trainer.scaler, kept))
    while trainer.progress.step < step - 1:
        trainer.step()
    trainer.metrics.pending.clear()
    batches = read_batches(kept)
    if batches:
        trainer.opened_batches = iter(batches)
    activations: list[tuple[str, Tensor]] = []
    gradients: list[tuple[str, Tensor]] = []
    with watched(trainer.task.model, activations, gradients):
        trainer.step()
    [values] = read_values(trainer.metrics.pending)
    return Replayed(step, values, to_numbers(activations), to_numbers(gradients))


@contextmanager
def watched(
    model: nn.Module, activations: list[tuple[str, Tensor]], gradients: list[tuple[str, Tensor]]
) -> Iterator[None]:
    """Note in this context the largest magnitudes of what each module gives, and of each gradient."""

    def note(name: str, outputs: Any) -> None:
        tensors = [each for each in tree_leaves(outputs) if isinstance(each, Tensor) and each.numel()]
        activations.extend((name, each.detach().abs().amax()) for each in tensors if each.is_floating_point())

    handles = [
        module.register_forward_hook(lambda _, inputs, outputs, name=name: note(name, outputs))
        for name, module in model.named_modules()
        if name
    ]
    handles += [
        parameter.register_hook(lambda grad, name=name: gradients.append((name, grad.detach().abs().amax())))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def to_numbers(noted: list[tuple[str, Tensor]]) -> list[Magnitude]:
    """Return what was noted, read from the device."""
    return [Magnitude(name, float(value)) for name, value in noted]
