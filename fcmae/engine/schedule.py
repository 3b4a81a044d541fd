"""The learning rate as a function of the step."""

import math
from dataclasses import dataclass
from typing import Any

from fcmae.engine.config import OptimConfig

REFERENCE_BATCH = 256


def learning_rate(
    step: int, *, config: OptimConfig, batch_size: int, steps_per_epoch: int, epochs: float
) -> float:
    """Return the learning rate of one optimiser step: linear warm-up from 0, then a cosine or steps.

    The linear scaling with the batch is that of Goyal et al. (arXiv 1706.02677); warm-up and cosine per step
    are those of MAE (arXiv 2111.06377) and ConvNeXt V2 (arXiv 2301.00808).

    Args:
        step: optimiser steps done before this one, so 0 for the first
        config: base rate, warm-up and schedule
        batch_size: images of one optimiser step, over all processes and accumulation steps
        steps_per_epoch: optimiser steps of one epoch
        epochs: epochs of the whole run

    Returns:
        the rate of a parameter group whose `lr_scale` is 1
    """
    peak = config.base_lr * batch_size / REFERENCE_BATCH if config.lr is None else config.lr
    floor = config.min_lr
    warmup_epochs = epochs / 20 if config.warmup_epochs is None else config.warmup_epochs
    warmup_steps = warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return peak * step / warmup_steps
    if config.schedule == "step":
        return peak * config.step_gamma ** math.floor(step / (config.step_epochs * steps_per_epoch))
    progress = (step - warmup_steps) / max(epochs * steps_per_epoch - warmup_steps, 1.0)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


@dataclass(frozen=True)
class Plan:
    """The learning rate that some settings mean.

    Args:
        start: epochs done when a run went on with them, with a fraction
        rates: (epoch, rate) over the whole run, by epoch
    """

    start: float
    rates: list[tuple[float, float]]


def plan_of(settings: dict[str, Any], step: int, steps_per_epoch: int) -> Plan:
    """Return the plan of settings as a run keeps them, nested, that hold from a step on."""
    options = {
        name: settings["optim"][name] for name in OptimConfig.__dataclass_fields__.keys() & settings["optim"]
    }
    config, epochs, batch_size = OptimConfig(**options), settings["epochs"], settings["batch_size"]
    total = epochs * steps_per_epoch
    rates = [
        (
            each / steps_per_epoch,
            learning_rate(
                each, config=config, batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs
            ),
        )
        for each in sorted({step, *range(0, total + 1, max(1, total // 1000))})
    ]
    return Plan(step / steps_per_epoch, rates)
