"""A task trained by several processes: DDP or FSDP2 around its model, and state dicts that both share."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.engine.config import LoopConfig
from fcmae.engine.task import Task

FULL = StateDictOptions(full_state_dict=True)
FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ParallelTask:
    """A task's steps, whose gradients are the means over all processes.

    With one process nothing is wrapped. DDP wraps the step; FSDP2 shards the task's model in place, whole
    again for evaluation and when training is over.

    Args:
        task: its model is on the device and the same in all processes
        loop: sharding and the type that gradients are reduced in
        device: where the model is

    Raises:
        UserError: a combination of settings that is not supported
    """

    def __init__(self, task: Task, loop: LoopConfig, device: torch.device) -> None:
        self.task = task
        self.device = device
        self.module: nn.Module = TaskStep(task)
        self.whole: nn.Module | None = None
        self.sharded = current_world().size > 1 and loop.sharding == "fsdp"
        if self.sharded:
            if loop.precision == "fp16":
                raise UserError("loop.sharding fsdp does not scale losses for fp16: use loop.precision bf16")
            self.whole = copy.deepcopy(task.model).cpu()
            shard(task.model, loop, device)
        elif current_world().size > 1:
            self.module = DistributedDataParallel(self.module, gradient_as_bucket_view=True)
            if loop.reduce_dtype == "bf16":
                self.module.register_comm_hook(None, bf16_compress_hook)

    def step(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and metrics of a micro-batch of this process."""
        result: tuple[Tensor, dict[str, Tensor]] = self.module(batch)
        return result

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Compute a micro-batch, forward and backward, in this context: the last one exchanges gradients."""
        if self.sharded:
            self.task.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        skips_exchange = isinstance(self.module, DistributedDataParallel) and not last
        with self.module.no_sync() if skips_exchange else nullcontext():  # type: ignore[operator]
            yield

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Make `task.model` whole in this context, and the same in all processes, buffers included."""
        trained = self.task.model
        if self.whole is not None:
            self.whole.load_state_dict(get_model_state_dict(trained, options=FULL))
            self.task.model = self.whole.to(self.device)
        elif current_world().size > 1:
            for buffer in trained.buffers():  # of a batch norm: each process has seen other images
                dist.broadcast(buffer, src=0)
        try:
            yield
        finally:
            if self.whole is not None:
                self.task.model = trained
                self.whole.cpu()

    def finish(self) -> None:
        """Leave the task with a whole model, for what comes after training."""
        with self.whole_model():
            whole = self.task.model
        self.task.model = whole.to(self.device)

    def state_dict(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of task, model and optimiser, whole and on the CPU of rank zero.

        Its names do not depend on how the run is spread. All processes have to call this.
        """
        model = self.task.model
        return {
            **self.task.state_dict(),
            "model": get_model_state_dict(model, options=FULL_ON_CPU),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=FULL_ON_CPU),
        }

    def load_state_dict(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Restore task, model and optimiser from what `state_dict` gave, the same in every process."""
        self.task.load_state_dict(state)
        whole = self.task.model if self.whole is None else self.whole
        whole.load_state_dict(state["model"])
        if self.whole is not None:
            set_model_state_dict(self.task.model, self.whole.state_dict(), options=FULL)
        set_optimizer_state_dict(self.task.model, optimizer, state["optimizer"], options=FULL)


class TaskStep(nn.Module):
    """A task's step as the forward pass of a module, so that DDP sees whatever the task calls in it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and metrics of a micro-batch."""
        return self.task.step(batch)


def shard(model: nn.Module, loop: LoopConfig, device: torch.device) -> None:
    """Shard a model's parameters in place with FSDP2, block by block, the rest in one group.

    A block is an element of a list or sequence that has modules of its own: they are gathered when called.
    Inner ones come first, as FSDP2 wants it.
    """
    mesh = init_device_mesh(device.type, (current_world().size,))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if loop.reduce_dtype == "bf16" else None)
    containers = (nn.ModuleList, nn.Sequential)
    for container in reversed([each for each in model.modules() if isinstance(each, containers)]):
        for block in container:
            if not isinstance(block, containers) and any(True for _ in block.children()):
                fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
