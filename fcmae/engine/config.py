"""The settings that every kind of training shares: optimiser, and how a run is kept."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule.

    Args:
        base_lr: learning rate for a batch of 256 images; the one used is base_lr x batch size / 256
        min_lr: learning rate at the end of the cosine, on the same scale as base_lr
        weight_decay: AdamW's weight decay; never applied to norms, biases, GRN and tokens
        betas: AdamW's two betas
        warmup_epochs: epochs of linear warm-up from 0; fractions are allowed
        schedule: cosine to min_lr, or steps that multiply the rate by step_gamma every step_epochs
        step_epochs: length of one step of the step schedule, in epochs
        step_gamma: factor of one step of the step schedule
        clip_grad: largest gradient norm (L2 over all parameters); none clips nothing
        accumulate: parts a batch is cut into, one after another, to save memory
    """

    base_lr: float = 1.5e-4
    min_lr: float = 0.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_epochs: float = 40.0
    schedule: Literal["cosine", "step"] = "cosine"
    step_epochs: float = 30.0
    step_gamma: float = 0.1
    clip_grad: float | None = None
    accumulate: int = 1


@dataclass
class LoopConfig:
    """Precision, and what a run writes when.

    Args:
        precision: arithmetic of the forward pass; fp16 scales the loss
        compile: compile the model with torch.compile
        log_every: optimiser steps between two lines of the log
        save_every: epochs between two checkpoints
        save_minutes: also save after this many minutes, in the middle of an epoch; 0 never does
        keep: how many of the newest checkpoints are kept (the best one is kept besides)
        resume: continue the run found in the output folder
    """

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    compile: bool = False
    log_every: int = 10
    save_every: int = 1
    save_minutes: float = 10.0
    keep: int = 2
    resume: bool = True
