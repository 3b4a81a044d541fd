"""The training loop: steps, accumulation, precision, logging, checkpoints, interruption and resuming."""

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcmae.core.distributed import current_world, expect_steps, from_rank_zero, in_rank_zero
from fcmae.core.signals import StopSignals
from fcmae.engine.checkpoint import FORMAT, Checkpoints
from fcmae.engine.config import TrainingConfig
from fcmae.engine.display import ProgressDisplay
from fcmae.engine.kept import keep_step
from fcmae.engine.loggers import Logger, Loggers
from fcmae.engine.metrics import StepLog, StepMetrics
from fcmae.engine.optim import create_optimizer, update
from fcmae.engine.parallel import ParallelTask, small_part
from fcmae.engine.pictures import draw_curves, draw_schedule
from fcmae.engine.precision import AUTOCAST_DTYPES, autocast, choose_precision, loss_scaler
from fcmae.engine.progress import Criterion, Progress, Summary
from fcmae.engine.resume import read_newest, restore
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.saving import Saver
from fcmae.engine.schedule import learning_rate, plan_of
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
    loggers: Sequence[Callable[[RunFolder], Logger]] = (),
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
        best: the metric that chooses the epoch of `best.pt`, and whether low or high is good: `loss` (the
            epoch's mean) or a name that `evaluate` returns; by default there is no such checkpoint
        patience: end the run after this many epochs without a better one by `best`
        loggers: makers of loggers beside those that the settings name

    Raises:
        UserError: a loss is not finite, or a checkpoint cannot be written or read
    """
    trainer = Trainer(task, config, device, run, best, patience, loggers)
    trainer.resume()
    with StopSignals(config.loop.agree_seconds) as stop, trainer.display:
        received = None
        while not trainer.complete and received is None:
            if trainer.at_end_of_epoch:
                trainer.finish_epoch()
            else:
                trainer.step()
            at_once = trainer.at_start_of_epoch or trainer.at_end_of_epoch
            received, save_due = stop.agreed(trainer.save_due, at_once)
            if save_due:
                trainer.save()
            elif trainer.log_due:
                trainer.read_metrics()
            if trainer.drawing_due and received is None:
                trainer.draw()
        if trainer.unsaved:
            trainer.save()
        trainer.saver.wait()
    trainer.parallel.finish()
    if trainer.complete:
        trainer.draw_curves()
    return trainer.progress.summary(interrupted=None if trainer.complete else received)


class Trainer:
    """One run in progress: the moves that `train`, which explains the arguments, puts in order.

    It is whole once it is made, at step 0; `resume` only restores.
    """

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        device: torch.device,
        run: RunFolder,
        best: Criterion | None = None,
        patience: int | None = None,
        loggers: Sequence[Callable[[RunFolder], Logger]] = (),
    ) -> None:
        config.optim.check(config.epochs, config.batch_size)
        self.task, self.config, self.device, self.run = task, config, device, run
        self.best, self.patience = best, patience
        self.total_steps = config.epochs * task.steps_per_epoch

        task.model.to(device)
        self.precision = choose_precision(config.loop.precision, device)
        self_test(device, AUTOCAST_DTYPES.get(self.precision, torch.float32), task.examples())
        self.parallel = ParallelTask(task, config.loop, self.precision, device)

        groups = task.parameter_groups(config.optim.weight_decay)
        self.optimizer = create_optimizer(groups, config.optim, device)
        self.scaler = loss_scaler(self.precision, device)
        self.learning_rate = partial(
            learning_rate,
            config=config.optim,
            batch_size=config.batch_size,
            steps_per_epoch=task.steps_per_epoch,
            epochs=config.epochs,
        )

        self.checkpoints = Checkpoints(run.checkpoints, config.loop.keep)
        self.saver = Saver(
            self.checkpoints,
            task.saved,
            sharded=self.parallel.sharded,
            asynchronous=config.loop.async_checkpoints,
        )
        self.loggers = Loggers(run, config.loop.loggers, loggers)
        self.display = ProgressDisplay(self.total_steps, task.steps_per_epoch)
        self.metrics = StepLog(
            self.loggers,
            self.display,
            self.scaler,
            config.batch_size,
            task.steps_per_epoch,
            device,
            self._keep,
        )
        self.start(Progress())

    def start(self, progress: Progress) -> None:
        """Begin at a point of the run that is saved already, or is its beginning."""
        self.progress = progress
        self.batches = self.task.batches(progress.step, self.total_steps)
        self.saved_at = (progress.step, progress.finished_epochs)
        self.started = time.monotonic() - progress.seconds
        self.last_saved = time.monotonic()
        self.last_drawn = -math.inf
        self.undrawn = False
        self.metrics.restart_clock()
        self.task.model.train()

    def resume(self) -> None:
        """Restore the newest good checkpoint, if there is one, and rewind the log to it.

        Rank zero reads it and hands it on.

        Raises:
            UserError: every checkpoint is damaged, it was trained on other images or does not fit the network
        """
        state = in_rank_zero(lambda: read_newest(self.checkpoints, self.parallel, self.run))
        small = from_rank_zero(lambda: small_part(state))
        if small is not None:
            found = small if state is None else state
            self.start(restore(found, self.parallel, self.optimizer, self.scaler, self.checkpoints.folder))
            from_rank_zero(lambda: self._finish_saving(found))
        self.loggers.rewind(self.progress.step, self.progress.finished_epochs)
        if current_world().is_rank_zero:
            self._draw_schedule()
        self.display.start_at(self.progress.step)

    def _draw_schedule(self) -> None:
        """Draw the learning rate of a run that has gone on with other settings."""
        entries = self.run.history.read()
        if len(entries) > 1:
            plans = [plan_of(each["settings"], each["step"], self.task.steps_per_epoch) for each in entries]
            draw_schedule(plans, self.run.schedule)

    @cached_property
    def opened_batches(self) -> Iterator[Any]:
        """The micro-batches from here to the end: the first step starts the processes that read them."""
        return iter(self.batches)

    def step(self) -> None:
        """Take one optimiser step over its micro-batches. Nothing here waits for the device."""
        step, count = self.progress.step, self.config.optim.accumulation_steps
        lr = self.learning_rate(step)
        batches = self.opened_batches  # before the seed: a loader draws a number as it opens
        seed_everything(self.config.seed, step)
        means: dict[str, Tensor] = {}
        files: list[str] = []
        for number in range(count):
            with self.metrics.data_clock.waiting():
                batch = next(batches)
            with self.parallel.micro_batch(last=number == count - 1):
                with autocast(self.precision, self.device):
                    loss, metrics = self.parallel.step(batch)
                self.scaler.scale(loss / count).backward()
            for name, value in {"loss": loss, **metrics}.items():
                means[name] = means.get(name, 0.0) + value.detach().float() / count
            files += self.task.describe(batch)
        clip_grad = self.config.optim.clip_grad
        means["grad_norm"] = update(self.optimizer, self.scaler, step=step, lr=lr, clip_grad=clip_grad)
        expect_steps()
        self.progress.step = step + 1
        self.task.optimizer_stepped(step + 1)
        self.metrics.add(StepMetrics(step + 1, lr, files, means))

    def read_metrics(self) -> None:
        """Read and log the metrics of the steps since the last time: alone in waiting for the device.

        Raises:
            UserError: a loss or a gradient norm is not finite
        """
        self.progress.add_losses(self.metrics.read())

    def _keep(self, step: int) -> Path | None:
        """Keep a step that was not finite for `fcmae replay`; return the checkpoint before it, if any."""
        self.saver.wait()  # one that is being written is the newest
        return keep_step(self.run, self.checkpoints, self.task, step, self.config.optim.accumulation_steps)

    def finish_epoch(self) -> None:
        """Evaluate, log the epoch, and save if it is time; whatever is drawn can wait until that is safe."""
        self.read_metrics()
        progress, epoch = self.progress, self.progress.finished_epochs + 1
        loss = progress.epoch_loss_sum / self.task.steps_per_epoch
        with self.parallel.whole_model(), torch.no_grad(), autocast(self.precision, self.device):
            metrics = self.task.evaluate(epoch)
        self.task.model.train()
        self.loggers.log({"step": progress.step, "epoch": epoch, "epoch_loss": loss, **metrics})
        progress.finish_epoch(loss)
        better = progress.note_best({"loss": loss, **metrics}, self.best)
        if better or self.complete or epoch % self.config.loop.save_every == 0:
            self.save(best=better)
        self.undrawn = True
        self.metrics.restart_clock()

    def draw(self) -> None:
        """Draw what the log holds, not too often, and what the task shows of this epoch."""
        self.undrawn = False
        if time.monotonic() - self.last_drawn > SECONDS_BETWEEN_CURVES:
            self.draw_curves()
        if self.task.draws(self.progress.finished_epochs):
            with self.parallel.whole_model(), torch.no_grad(), autocast(self.precision, self.device):
                if current_world().is_rank_zero:
                    self.task.draw()
            self.task.model.train()
        self.metrics.restart_clock()

    def draw_curves(self) -> None:
        """Draw what the log holds, in rank zero."""
        if current_world().is_rank_zero:
            draw_curves(self.run.records(), self.run.curves, self.best[0] if self.best else "loss")
        self.last_drawn = time.monotonic()

    def save(self, best: bool = False) -> None:
        """Write a checkpoint. All losses are read first, so that none holds a value that is not finite."""
        self.read_metrics()
        self.progress.seconds = time.monotonic() - self.started
        state = {
            "format": FORMAT,
            **self.parallel.state_dict(self.optimizer),
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "data": self.task.data(),
        }
        self.saver.save(state, self.progress.step, best)
        self.saved_at = (self.progress.step, self.progress.finished_epochs)
        self.last_saved = time.monotonic()
        self.metrics.restart_clock()

    def _finish_saving(self, state: dict[str, Any]) -> None:
        """Do what follows a checkpoint once more: a kill may have come before its end.

        Args:
            state: of the checkpoint that the run goes on from
        """
        self.checkpoints.tidy(self.progress.step)
        if self.progress.is_best and self.at_start_of_epoch:
            self.checkpoints.mark_best(self.progress.step)
            self.task.saved(state, best=True)

    @property
    def complete(self) -> bool:
        """Whether every epoch is finished, its evaluation included, or the run is out of patience."""
        epoch = self.progress.finished_epochs
        out_of_patience = self.patience is not None and epoch - self.progress.best_epoch >= self.patience
        return epoch >= self.config.epochs or out_of_patience

    @property
    def at_end_of_epoch(self) -> bool:
        """Whether an epoch's steps are all taken and it has not been evaluated yet."""
        return self.progress.step == (self.progress.finished_epochs + 1) * self.task.steps_per_epoch

    @property
    def at_start_of_epoch(self) -> bool:
        """Whether no step has been taken since the last epoch was evaluated."""
        return self.progress.step == self.progress.finished_epochs * self.task.steps_per_epoch

    @property
    def log_due(self) -> bool:
        """Whether it is time for a line of the log."""
        return len(self.metrics) >= self.config.loop.log_every

    @property
    def save_due(self) -> bool:
        """Whether it is time for a checkpoint in the middle of an epoch."""
        minutes = self.config.loop.save_minutes
        return minutes > 0 and time.monotonic() - self.last_saved >= 60 * minutes

    @property
    def drawing_due(self) -> bool:
        """Whether an epoch was finished that is not drawn; the last one is, when all is done."""
        return self.undrawn and not self.complete

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
