"""The learning rate as a function of the step."""

import math

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
    peak, floor = config.lr, config.min_lr
    if peak is None:
        peak, floor = (rate * batch_size / REFERENCE_BATCH for rate in (config.base_lr, config.min_lr))
    warmup_epochs = epochs / 20 if config.warmup_epochs is None else config.warmup_epochs
    warmup_steps = warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        return peak * step / warmup_steps
    if config.schedule == "step":
        return peak * config.step_gamma ** math.floor(step / (config.step_epochs * steps_per_epoch))
    progress = (step - warmup_steps) / max(epochs * steps_per_epoch - warmup_steps, 1.0)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
