"""A small real task to train, in a module of its own so that another process can import it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fcmae.engine.config import LoopConfig, OptimConfig
from fcmae.engine.history import RunSettings
from fcmae.engine.progress import Summary
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.task import Task
from fcmae.engine.trainer import train

STEPS_PER_EPOCH = 5
EPOCHS = 3
BATCH = 8


class ToyTask(Task):
    """Regress the mean of small random images with a convolution, a norm and dropout.

    Args:
        accumulation_steps: micro-batches of a step
        poison: number of the step, from 1, whose loss or gradient is not finite
        poison_gradient: whether it is the gradient alone
        signal_after: number of the step during which the process signals itself, and the signal
    """

    model: nn.Sequential
    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(
        self,
        accumulation_steps: int = 1,
        poison: int | None = None,
        poison_gradient: bool = False,
        signal_after: tuple[int, int] | None = None,
    ) -> None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)]
        self.model = nn.Sequential(*layers, nn.Linear(4 * 36, 1))
        self.average = self.first_weights
        self.accumulation_steps, self.signal_after = accumulation_steps, signal_after
        self.poison, self.poison_gradient = poison, poison_gradient
        self.evaluated: list[int] = []

    @property
    def first_weights(self) -> Tensor:
        """A copy of the first layer's weights."""
        return next(self.model.parameters()).detach().clone()

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        first, *others = self.model.parameters()
        return [
            {"params": [first], "weight_decay": 0.0, "lr_scale": 0.5},
            {"params": others, "weight_decay": weight_decay},
        ]

    def batches(self, start_step: int, total_steps: int) -> Iterable[tuple[int, Tensor]]:
        for step in range(start_step, total_steps):
            generator = torch.Generator().manual_seed(step)
            images = torch.rand(BATCH, 1, 8, 8, generator=generator)
            for micro_batch in images.chunk(self.accumulation_steps):
                yield step + 1, micro_batch

    def step(self, batch: tuple[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        step, images = batch
        if self.signal_after and step == self.signal_after[0]:
            os.kill(os.getpid(), self.signal_after[1])
        error = self.model(images).squeeze(1) - images.mean((1, 2, 3))
        loss = error.float().square().mean()
        if step == self.poison:
            # sqrt has an infinite slope at 0, so the loss is finite and its gradient is not
            loss = loss + ((loss - loss).sqrt() if self.poison_gradient else torch.tensor(float("nan")))
        return loss, {"error": error.abs().mean()}

    def describe(self, batch: tuple[int, Tensor]) -> list[str]:
        return [f"step{batch[0]}_{i}.png" for i in range(len(batch[1]))]

    def evaluate(self, epoch: int) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        self.model.eval()
        self.evaluated.append(epoch)
        return {"score": float(epoch % 2)}

    def optimizer_stepped(self, step: int) -> None:
        self.average.lerp_(self.first_weights, 0.1)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = state["average"]


@dataclass
class ToyConfig:
    """The settings of a toy run."""

    optim: OptimConfig
    loop: LoopConfig
    epochs: int = EPOCHS
    batch_size: int = BATCH
    seed: int = 1
    device: str = "cpu"


def toy_config(**options: Any) -> ToyConfig:
    """Return settings of a toy run; the options are those of OptimConfig and LoopConfig."""
    options = {"base_lr": 0.3, "warmup_epochs": 1.0, "save_minutes": 0.0, "log_every": 2, **options}
    epochs = options.pop("epochs", EPOCHS)
    names = LoopConfig.__dataclass_fields__
    return ToyConfig(
        OptimConfig(**{name: value for name, value in options.items() if name not in names}),
        LoopConfig(**{name: value for name, value in options.items() if name in names}),
        epochs,
    )


def run_toy(
    folder: Path,
    task: ToyTask,
    *,
    best: Any = ("loss", "min"),
    patience: int | None = None,
    **options: Any,
) -> Summary:
    """Train a toy task; the options are those of OptimConfig and LoopConfig."""
    config = toy_config(**{"accumulation_steps": task.accumulation_steps, **options})
    run = RunFolder(folder)
    run.acquire(RunSettings({"task": "toy"}))
    return train(task, config, device=torch.device("cpu"), run=run, best=best, patience=patience)
