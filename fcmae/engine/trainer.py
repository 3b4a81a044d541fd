"""The training loop: steps, accumulation, precision, logging, checkpoints, interruption and resuming."""

import hashlib
import math
import random
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcmae.core.distributed import current_world, from_rank_zero, max_over_processes
from fcmae.core.errors import UserError
from fcmae.core.signals import StopSignals
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.config import TrainingConfig
from fcmae.engine.display import ProgressDisplay
from fcmae.engine.loggers import Loggers
from fcmae.engine.metrics import StepLog, StepMetrics
from fcmae.engine.parallel import ParallelTask, total_norm
from fcmae.engine.pictures import draw_curves
from fcmae.engine.precision import AUTOCAST_DTYPES, autocast, choose_precision, loss_scaler
from fcmae.engine.progress import Criterion, Progress, Summary
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.schedule import learning_rate
from fcmae.engine.task import Task
from fcmae.models.kernels.selftest import self_test

SECONDS_BETWEEN_CURVES = 30.0


def train(
    task: Task,
    config: TrainingConfig,
    *,
    device: torch.device,
    run: RunFolder,
    best: Criterion | None = None,
    patience: int | None = None,
) -> Summary:
    """Train a task to the end of its last epoch, or until a signal to stop; go on where the run left off.

    Every random number of a step is a function of seed and step, so N steps equal k steps, a kill, and N - k
    steps after it. A run that is complete returns at once. Where several processes have joined, all of them
    call this with the same arguments; rank zero writes.

    Args:
        task: model, batches and loss
        config: the settings of the run, of which the loop reads the part that every training has
        device: where to compute
        run: the acquired folder of the run
        best: the figure that chooses the epoch of `best.pt`, and whether low or high is good: `loss` (the
            epoch's mean) or a name that `evaluate` returns; none keeps no such checkpoint
        patience: end the run after this many epochs without a better one by `best`

    Raises:
        UserError: a loss is not finite, or a checkpoint cannot be written or read
    """
    trainer = Trainer(task, config, device, run, best, patience)
    trainer.resume()
    with StopSignals() as stop, trainer.display:
        received = None
        while not trainer.complete and received is None:
            if trainer.at_end_of_epoch:
                trainer.finish_epoch()
            else:
                trainer.step()
            received, save_due = stop.agreed(trainer.save_due)
            if save_due:
                trainer.save()
            elif trainer.log_due:
                trainer.read_metrics()
        if trainer.unsaved:
            trainer.save()
    trainer.parallel.finish()
    return trainer.progress.summary(interrupted=None if trainer.complete else received)


@dataclass
class Trainer:
    """One run in progress: the moves that `train`, which explains the fields, puts in order."""

    task: Task
    config: TrainingConfig
    device: torch.device
    run: RunFolder
    best: Criterion | None
    patience: int | None

    def __post_init__(self) -> None:
        self.config.optim.check(self.config.epochs, self.config.batch_size)
        self.total_steps = self.config.epochs * self.task.steps_per_epoch
        self.task.model.to(self.device)
        self.precision = choose_precision(self.config.loop.precision, self.device)
        dtype = AUTOCAST_DTYPES.get(self.precision, torch.float32)
        self_test(self.device, dtype, self.task.examples())
        if self.config.loop.compile:
            # In place, so that names stay; for each shape apart, so that a last, odd batch slows no other.
            self.task.model.compile(dynamic=False)
        self.scaler = loss_scaler(self.precision, self.device)
        self.checkpoints = Checkpoints(self.run.checkpoints, self.config.loop.keep)
        self.progress = Progress()

    def resume(self) -> None:
        """Continue from the newest good checkpoint, or start."""
        state = self.checkpoints.newest()
        if state is not None:
            self.task.load_state_dict(state)
        self.parallel = ParallelTask(self.task, self.config.loop, self.device)
        groups = self.task.parameter_groups(self.config.optim.weight_decay)
        fused = self.device.type != "mps"
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=self.config.optim.betas, fused=fused)
        if state is not None:
            self.parallel.load_optimizer(self.optimizer, state)
            if self.scaler.is_enabled() and state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            self.progress = Progress(**state["progress"])
        self._require_same_start()
        self.loggers = Loggers(self.run, self.config.loop.loggers)
        self.loggers.rewind(self.progress.step, self.progress.finished_epochs)
        steps_per_epoch = self.task.steps_per_epoch
        self.display = ProgressDisplay(self.progress.step, self.total_steps, steps_per_epoch)
        self.log = StepLog(self.loggers, self.display, self.scaler, self.config.batch_size, steps_per_epoch)
        self.batches = iter(self.task.batches(self.progress.step, self.total_steps))
        self.task.model.train()
        self.saved_at = (self.progress.step, self.progress.finished_epochs)
        self.started = time.monotonic() - self.progress.seconds
        self.last_saved = time.monotonic()
        self.last_drawn = -math.inf

    def _require_same_start(self) -> None:
        """Refuse to go on where the processes see different checkpoints."""
        first, last = max_over_processes(-self.progress.step, self.progress.step)
        if -first != last:
            raise UserError(
                f"{self.checkpoints.folder}: this process finds step {self.progress.step} there, others up "
                f"to {last}: is the folder on a file system that all machines share?"
            )

    def step(self) -> None:
        """Take one optimiser step over its micro-batches. Nothing here waits for the device."""
        step, parts = self.progress.step, self.config.optim.accumulation_steps
        lr = self._learning_rate(step)
        seed_everything(self.config.seed, step)
        figures: dict[str, Tensor] = {}
        files: list[str] = []
        for part in range(parts):
            batch = next(self.batches)
            with self.parallel.part(last=part == parts - 1):
                with autocast(self.precision, self.device):
                    loss, metrics = self.parallel.step(batch)
                self.scaler.scale(loss / parts).backward()
            for name, value in {"loss": loss, **metrics}.items():
                figures[name] = figures.get(name, 0.0) + value.detach().float() / parts
            files += self.task.describe(batch)
        figures["grad_norm"] = self._update(lr)
        self.progress.step = step + 1
        self.task.optimizer_stepped(step + 1)
        self.log.add(StepMetrics(step + 1, lr, files, figures))

    def _learning_rate(self, step: int) -> float:
        return learning_rate(
            step,
            config=self.config.optim,
            batch_size=self.config.batch_size,
            steps_per_epoch=self.task.steps_per_epoch,
            epochs=self.config.epochs,
        )

    def _update(self, lr: float) -> Tensor:
        """Clip and apply the gradients; returns their L2 norm, () and before clipping."""
        self.scaler.unscale_(self.optimizer)
        groups = self.optimizer.param_groups
        parameters = [each for group in groups for each in group["params"] if each.grad is not None]
        norm = total_norm([each.grad for each in parameters])
        if self.config.optim.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip_grad, norm)
        for group in groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return norm

    def read_metrics(self) -> None:
        """Read and log the figures of the steps since the last time: the one place that waits for the device.

        Raises:
            UserError: a loss or a gradient norm is not finite
        """
        self.progress.add_losses(self.log.read())

    def finish_epoch(self) -> None:
        """Evaluate, log the epoch, redraw the curves, and save if it is time."""
        self.read_metrics()
        progress, epoch = self.progress, self.progress.finished_epochs + 1
        loss = progress.epoch_loss_sum / self.task.steps_per_epoch
        with self.parallel.whole_model(), torch.no_grad(), autocast(self.precision, self.device):
            metrics = self.task.evaluate(epoch)
        self.task.model.train()
        self.loggers.log({"step": progress.step, "epoch": epoch, "epoch_loss": loss, **metrics})
        progress.finish_epoch(loss)
        better = progress.note_best({"loss": loss, **metrics}, self.best)
        if self.complete or time.monotonic() - self.last_drawn > SECONDS_BETWEEN_CURVES:
            if current_world().is_rank_zero:
                draw_curves(self.run.records(), self.run.curves, self.best[0] if self.best else "loss")
            self.last_drawn = time.monotonic()
        if better or self.complete or epoch % self.config.loop.save_every == 0:
            self.save(best=better)
        self.log.restart_clock()

    def save(self, best: bool = False) -> None:
        """Write a checkpoint. All losses are read first, so that none holds a value that is not finite."""
        self.read_metrics()
        self.progress.seconds = time.monotonic() - self.started
        state = {
            **self.parallel.state_dict(self.optimizer),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
        }
        from_rank_zero(lambda: self._write(state, best))
        self.saved_at = (self.progress.step, self.progress.finished_epochs)
        self.last_saved = time.monotonic()
        self.log.restart_clock()

    def _write(self, state: dict[str, Any], best: bool) -> None:
        self.checkpoints.save(state, self.progress.step, best)
        self.task.saved(state, best)

    @property
    def complete(self) -> bool:
        """Whether every epoch is finished, its evaluation included, or patience is at an end."""
        epoch = self.progress.finished_epochs
        weary = self.patience is not None and epoch - self.progress.best_epoch >= self.patience
        return epoch == self.config.epochs or weary

    @property
    def at_end_of_epoch(self) -> bool:
        """Whether an epoch's steps are all taken and it has not been evaluated yet."""
        return self.progress.step == (self.progress.finished_epochs + 1) * self.task.steps_per_epoch

    @property
    def log_due(self) -> bool:
        """Whether it is time for a line of the log."""
        return len(self.log) >= self.config.loop.log_every

    @property
    def save_due(self) -> bool:
        """Whether it is time for a checkpoint in the middle of an epoch."""
        minutes = self.config.loop.save_minutes
        return minutes > 0 and time.monotonic() - self.last_saved >= 60 * minutes

    @property
    def unsaved(self) -> bool:
        """Whether the newest checkpoint is behind."""
        return (self.progress.step, self.progress.finished_epochs) != self.saved_at


def seed_everything(seed: int, step: int) -> None:
    """Seed torch, numpy and random for one step of one process: no generator's state need be saved."""
    text = f"{seed} {step} {current_world().rank}"
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002  timm's mixup draws from the global generator
    random.seed(number)
