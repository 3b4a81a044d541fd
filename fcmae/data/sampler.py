"""Which images make up which batch: a function of the seed and the step alone."""

from collections.abc import Iterator

import numpy as np

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError

Key = tuple[int, int]
"""(turn, index of the image): what a dataset needs to make one augmented image; no key comes twice in a run.
The turn is the epoch where each image has one an epoch, and the number of the draw where images are drawn."""


class StepSampler:
    """The keys of one process's micro-batches, from one optimiser step to another, through all epochs.

    Use it as `batch_sampler` of a DataLoader. An epoch's order is a permutation drawn from (seed, epoch);
    the images that do not fill a last batch are left out of that epoch. Step s of an epoch takes the s-th
    `batch_size` samples of the order and cuts them into `accumulation_steps` times `world` micro-batches, of
    which each process takes every `world`-th: workers, processes and restarts change nothing about which
    images meet in a step.

    With K repeats each image is K samples that follow each other, of which it need be read once. An epoch is
    still n samples, and a permutation of the images serves K epochs.
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
        repeats: int = 1,
    ) -> None:
        """Take the order's settings, and see that a batch can be filled and divided.

        Args:
            n: images in the data set
            batch_size: samples of one optimiser step, over all micro-batches and processes
            seed: with the epoch, determines the order
            total_steps: optimiser steps of the whole run
            start_step: optimiser steps already done
            accumulation_steps: micro-batches of one optimiser step
            rank: number of this process; by default its own among those of the run
            world: number of processes; by default those of the run
            weights: (n,), draw an epoch's n images with probabilities in proportion to these, the same one
                often or never; by default each image once
            repeats: K, samples made of an image each time that it is read

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
        micro_batch = batch_size // (world * accumulation_steps)
        if micro_batch % repeats:
            raise UserError(
                f"images.repeats is {repeats}, which does not divide the {micro_batch} samples of a "
                f"micro-batch: choose a divisor, or a batch size that is a multiple of "
                f"{world * accumulation_steps * repeats}"
            )
        self.n, self.batch_size, self.seed, self.repeats = n, batch_size, seed, repeats
        self.start_step, self.total_steps = start_step, total_steps
        self.accumulation_steps, self.rank, self.world = accumulation_steps, rank, world
        self.cumulated = None if weights is None else _cumulate(weights)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield the keys of each micro-batch of this process."""
        order, ordered = np.arange(0), -1
        for step in range(self.start_step, self.total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            drawn = self.cumulated is not None
            permutation = epoch if drawn else epoch // self.repeats
            if permutation != ordered:
                order, ordered = self._order(permutation), permutation
            start = 0 if drawn else epoch % self.repeats * (self.n // self.repeats)
            places = np.arange(position * self.batch_size, (position + 1) * self.batch_size)
            for samples in places.reshape(self.accumulation_steps, self.world, -1)[:, self.rank]:
                images, repeat = np.divmod(samples, self.repeats)
                turns = samples + epoch * self.n if drawn else repeat + permutation * self.repeats
                yield list(zip(turns.tolist(), order[start + images].tolist(), strict=True))

    def _order(self, permutation: int) -> np.ndarray:
        """Return the indices of all images, or those drawn for an epoch, int64, in order."""
        generator = np.random.default_rng((self.seed, permutation))
        if self.cumulated is None:
            return generator.permutation(self.n)
        numbers = generator.random(self.n // self.repeats)
        by_size = numbers.argsort()  # in their order, millions are found in a tenth of the time
        order = np.empty_like(by_size)
        order[by_size] = self.cumulated.searchsorted(numbers[by_size], side="right")
        return order


def _cumulate(weights: np.ndarray) -> np.ndarray:
    """Return the sums of all weights up to each, as fractions: what `Generator.choice` draws by."""
    cumulated: np.ndarray = (weights / weights.sum()).cumsum(dtype=np.float64)
    cumulated /= cumulated[-1]
    return cumulated
