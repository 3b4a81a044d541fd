"""Who writes a checkpoint, and when: rank zero or each process its part, at once or beside the next steps."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch.distributed as dist

from fcmae.core.distributed import current_world, from_rank_zero
from fcmae.engine.checkpoint import Checkpoints, load_checkpoint
from fcmae.models.shards import copy_to_cpu, write_shards


class Saver:
    """The one who saves the checkpoints of a run. All processes call it alike.

    Args:
        checkpoints: where they go
        saved: what rank zero does after each, given its weights, and whether they are the best so far
        sharded: whether the states are: each process writes its part
        asynchronous: write beside the next steps, from a copy on the CPU, instead of at once
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        saved: Callable[[dict[str, Any], bool], None],
        *,
        sharded: bool,
        asynchronous: bool,
    ) -> None:
        self.checkpoints, self.saved, self.asynchronous = checkpoints, saved, asynchronous
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        # Another thread must not take part in what this one exchanges.
        self._group: Any = dist.new_group(backend="gloo") if sharded else None

    def save(self, state: dict[str, Any], step: int, best: bool) -> None:
        """Write a checkpoint; where it is written beside the next steps, wait for the one before.

        Args:
            state: sharded, or whole in rank zero
            step: optimiser steps done
            best: also keep it as the best one

        Raises:
            UserError: this one, or the one before, cannot be written
        """
        self.wait()
        if self.asynchronous:
            self._pending = self._writer.submit(self._write, copy_to_cpu(state), step, best)
        else:
            self._pending = Future()
            try:
                self._write(state, step, best)
                self._pending.set_result(None)
            except Exception as error:  # told below, to all processes
                self._pending.set_exception(error)
            self.wait()

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            UserError: it cannot be
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        error = pending.exception()
        from_rank_zero(lambda: pending.result())
        if error is not None:
            raise error

    def _write(self, state: dict[str, Any], step: int, best: bool) -> None:
        """Write a checkpoint, and what follows one."""
        if self._group is not None:
            state = self._write_shards(state, step)
        if current_world().is_rank_zero:
            path = self.checkpoints.save(state, step, best)
            if self._group is not None and best:
                state = load_checkpoint(path, without=("optimizer",))
            self.saved(state, best)

    def _write_shards(self, state: dict[str, Any], step: int) -> dict[str, Any]:
        """Write each process's part of a state; return the rest."""
        shared: list[Any] = [None, None]
        if current_world().is_rank_zero:
            try:
                shared[0] = self.checkpoints.new_shards(step)
            except Exception as error:  # the others would wait for ever
                shared[1] = error
        dist.broadcast_object_list(shared, src=0, group=self._group)
        folder, refused = shared
        if refused is not None:
            raise refused
        try:
            return write_shards(state, folder, self._group)
        except OSError as error:
            raise self.checkpoints.cannot_write(folder, error) from error
