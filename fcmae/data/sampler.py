"""Which images make up which batch: a function of the seed and the step alone."""

from collections.abc import Iterator

import numpy as np

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError

Key = tuple[int, int]
"""(epoch, index of the image): what a dataset needs to make one augmented image. Where weights let an epoch
hold an image several times, the first number is that of the draw, so that each is augmented anew."""


class StepSampler:
    """The keys of one process's micro-batches, from one optimiser step to another, through all epochs.

    Use it as `batch_sampler` of a DataLoader. An epoch's order is a permutation drawn from (seed, epoch);
    the images that do not fill a last batch are left out of that epoch. Step s of an epoch takes the s-th
    `batch_size` images of the order and cuts them into `accumulation_steps` times `world` micro-batches, of
    which each process takes every `world`-th: workers, processes and restarts change nothing about which
    images meet in a step.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        *,
        total_steps: int,
        start_step: int = 0,
        accumulation_steps: int = 1,
        rank: int | None = None,
        world: int | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        """Take the order's settings, and see that a batch can be filled and divided.

        Args:
            n: images in the data set
            batch_size: images of one optimiser step, over all micro-batches and processes
            seed: with the epoch, determines the order
            total_steps: optimiser steps of the whole run
            start_step: optimiser steps already done
            accumulation_steps: micro-batches of one optimiser step
            rank: number of this process; by default its own among those of the run
            world: number of processes; by default those of the run
            weights: (n,), draw an epoch's n images with probabilities in proportion to these, the same one
                often or never; by default each image once

        Raises:
            UserError: more images in a batch than there are, or a batch that does not divide
        """
        rank = current_world().rank if rank is None else rank
        world = current_world().size if world is None else world
        if batch_size < 1 or batch_size > n:
            raise UserError(f"batch size {batch_size} does not fit {n} images: choose 1 to {n}")
        if batch_size % (world * accumulation_steps):
            raise UserError(
                f"batch size {batch_size} does not divide by {world} processes x {accumulation_steps} "
                f"accumulation steps: choose a multiple of {world * accumulation_steps}"
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.start_step, self.total_steps = start_step, total_steps
        self.accumulation_steps, self.rank, self.world = accumulation_steps, rank, world
        self.probabilities = None if weights is None else weights / weights.sum()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each micro-batch of this process."""
        order, order_epoch = np.arange(0), -1
        for step in range(self.start_step, self.total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self._order(epoch), epoch
            places = np.arange(position * self.batch_size, (position + 1) * self.batch_size)
            for micro_batch in places.reshape(self.accumulation_steps, self.world, -1)[:, self.rank]:
                drawn = self.probabilities is not None
                turns = micro_batch + epoch * self.n if drawn else np.full_like(micro_batch, epoch)
                yield list(zip(turns.tolist(), order[micro_batch].tolist(), strict=True))

    def _order(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch's images, int64 (n,), in order."""
        generator = np.random.default_rng((self.seed, epoch))
        if self.probabilities is not None:
            return generator.choice(self.n, self.n, p=self.probabilities)
        return generator.permutation(self.n)
