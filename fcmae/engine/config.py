"""The settings that every kind of training shares: optimiser, and how a run is kept."""

from dataclasses import dataclass
from typing import Literal, Protocol

from fcmae.core.errors import UserError
from fcmae.engine.loggers import check_loggers

# What may differ when any run is resumed: where and how it runs, not what it computes.
VOLATILE_IN_ALL = (
    "out", "device", "data_root", "images.workers", "network.grad_checkpointing", "loop.compile",
    "loop.resume", "loop.log_every", "loop.loggers", "loop.save_every", "loop.save_minutes", "loop.keep",
    "loop.sharding", "loop.shard_processes", "loop.timeout_minutes", "loop.start_minutes",
    "loop.agree_seconds", "loop.async_checkpoints",
)  # fmt: skip

# Settings that no run can go on with once they are others, not even by `--change`.
FIXED_IN_ALL = (
    "model", "network.in_chans", "network.stem_stride", "network.depths", "network.dims", "batch_size",
)  # fmt: skip


def check_ranges(seed: int, drop_path_rate: float) -> None:
    """Refuse a seed that torch would not take, and a fraction of dropped paths that leaves none.

    Raises:
        UserError: names the setting, its value and the range
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"seed is {seed}: it must be at least 0, and below 2^63")
    if not 0 <= drop_path_rate < 1:
        raise UserError(f"network.drop_path_rate is {drop_path_rate:g}: it must be at least 0, and below 1")


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule.

    Args:
        base_lr: learning rate for a batch of 256 images; the one used is base_lr x batch size / 256
        lr: learning rate whatever the batch size; by default base_lr decides
        min_lr: learning rate at the end of the cosine, whatever the batch size
        weight_decay: AdamW's weight decay; never applied to norms, biases, GRN and tokens
        betas: AdamW's two betas
        warmup_epochs: epochs of linear warm-up from 0; by default a twentieth of all
        schedule: cosine to min_lr, or steps that multiply the rate by step_gamma every step_epochs
        step_epochs: length of one step of the step schedule, in epochs
        step_gamma: factor of one step of the step schedule
        clip_grad: largest gradient norm, L2 over all parameters; by default nothing is clipped
        accumulation_steps: micro-batches of one step, computed one after another to save memory
    """

    base_lr: float = 1.5e-4
    lr: float | None = None
    min_lr: float = 0.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_epochs: float | None = None
    schedule: Literal["cosine", "step"] = "cosine"
    step_epochs: float = 30.0
    step_gamma: float = 0.1
    clip_grad: float | None = None
    accumulation_steps: int = 1

    def check(self, epochs: int, batch_size: int) -> None:
        """Refuse settings that no run of this many epochs and this batch size can mean.

        Raises:
            UserError: a rate or a count that is not positive, a warm-up longer than the run, or
                micro-batches of unequal size
        """
        for name in ("base_lr", "lr", "clip_grad", "accumulation_steps", "step_epochs", "step_gamma"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"optim.{name} is {value}: it must be above 0")
        if batch_size % self.accumulation_steps:
            raise UserError(
                f"batch_size {batch_size} cannot be cut into {self.accumulation_steps} equal micro-batches "
                "(optim.accumulation_steps): choose a multiple"
            )
        for name in ("min_lr", "weight_decay", "warmup_epochs"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"optim.{name} is {value}: it must not be below 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas are {self.betas}: each must be at least 0 and below 1")
        if self.warmup_epochs is not None and self.warmup_epochs > epochs:
            raise UserError(
                f"optim.warmup_epochs is {self.warmup_epochs:g} in a run of {epochs} epochs: the learning "
                "rate would never reach its peak; lower it, or train longer"
            )


@dataclass
class LoopConfig:
    """Precision, and what a run writes when.

    Args:
        precision: arithmetic of the forward pass; auto is bf16 on a GPU that has it, else float32
        compile: compile the model with torch.compile, block by block where it is sharded; without CUDA
            graphs, which write each batch's results over those of the batch before
        log_every: optimiser steps between two lines of the log
        loggers: where the log goes besides log.jsonl: tensorboard, and whatever is registered
        save_every: epochs between two checkpoints
        save_minutes: also save after this many minutes, in the middle of an epoch; 0 never does
        async_checkpoints: write checkpoints beside the next steps, from a copy in memory
        keep: how many of the newest checkpoints are kept (fine-tuning keeps the best one besides)
        resume: continue the run found in the output folder
        sharding: with several processes, keep the whole model in each (ddp), a part of it (fsdp), or a part
            such that a few processes hold the whole together (hsdp)
        shard_processes: with hsdp, how many hold it together; by default those of a machine
        param_dtype: type in which fsdp and hsdp gather weights: float32, or that of `precision`, which halves
            the traffic; the weights that are updated stay float32
        reduce_dtype: type in which gradients are summed over processes; bf16 halves the traffic
        start_minutes: how long a process waits for the others before the first step is done: until all have
            started, opened the data and compiled
        timeout_minutes: how long after that, before it ends the run
        agree_seconds: how long several processes go on before they ask each other whether one was told to
            stop; with the time of a step, less than the cluster's grace
    """

    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    compile: bool = False
    log_every: int = 10
    loggers: tuple[str, ...] = ("tensorboard",)
    save_every: int = 1
    save_minutes: float = 10.0
    async_checkpoints: bool = False
    keep: int = 2
    resume: bool = True
    sharding: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    shard_processes: int | None = None
    param_dtype: Literal["float32", "bf16", "fp16"] = "float32"
    reduce_dtype: Literal["float32", "bf16"] = "float32"
    start_minutes: float = 30.0
    timeout_minutes: float = 10.0
    agree_seconds: float = 5.0

    def check(self) -> None:
        """Refuse counts and times that no run can mean, and loggers that nobody has registered.

        Raises:
            UserError: names the setting, its value and what it may be
        """
        for name in ("log_every", "save_every", "keep", "start_minutes", "timeout_minutes"):
            if getattr(self, name) <= 0:
                raise UserError(f"loop.{name} is {getattr(self, name)}: it must be above 0")
        if self.shard_processes is not None and self.shard_processes <= 0:
            raise UserError(f"loop.shard_processes is {self.shard_processes}: it must be above 0")
        if self.param_dtype != "float32" and self.sharding == "ddp":
            raise UserError(f"loop.param_dtype is {self.param_dtype}: it needs loop.sharding fsdp or hsdp")
        if self.save_minutes < 0:
            raise UserError(f"loop.save_minutes is {self.save_minutes}: 0 saves at the ends of epochs only")
        if self.agree_seconds < 0:
            raise UserError(f"loop.agree_seconds is {self.agree_seconds:g}: 0 asks after every step")
        check_loggers(self.loggers)


class TrainingConfig(Protocol):
    """What the loop reads of the settings of a training: each kind of training has a dataclass with these.

    Args:
        epochs: epochs of the whole run
        batch_size: images of one optimiser step, over all processes and accumulation steps
        seed: of whatever a step draws, dropout and drop path for example
        device: auto, cpu, cuda, cuda:N or mps
        optim: optimiser and schedule
        loop: precision, and what is written when
    """

    epochs: int
    batch_size: int
    seed: int
    device: str
    optim: OptimConfig
    loop: LoopConfig
