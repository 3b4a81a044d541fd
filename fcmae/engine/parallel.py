"""A task trained by several processes: DDP or FSDP2 around its model, and state dicts that both share."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
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
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.engine.config import LoopConfig
from fcmae.engine.precision import AUTOCAST_DTYPES
from fcmae.engine.task import Task

FULL = StateDictOptions(full_state_dict=True)
FULL_ON_CPU = StateDictOptions(full_state_dict=True, cpu_offload=True)
SHARDED = StateDictOptions()
HANDED_ON = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
MODULES = {"model": "model", "averaged": "ema"}  # of a task, and what a checkpoint calls their weights
LARGE = {*MODULES.values(), "optimizer"}  # what a checkpoint holds of the size of a model


class ParallelTask:
    """A task's steps, whose gradients are the means over all processes.

    With one process nothing is wrapped. DDP wraps the step; FSDP2 shards the task's model, and the average of
    its weights if it follows one, in place: both are whole again for evaluation and when training is over.

    Args:
        task: its model is on the device and the same in all processes
        loop: sharding, compilation and the types that weights are gathered and gradients reduced in
        precision: of the forward pass: float32, bf16 or fp16
        device: where the model is

    Raises:
        UserError: a combination of settings that is not supported
    """

    def __init__(self, task: Task, loop: LoopConfig, precision: str, device: torch.device) -> None:
        self.task = task
        self.device = device
        self.module: nn.Module = TaskStep(task)
        self.whole: dict[str, nn.Module] = {}  # by attribute of the task, where that is sharded
        self.sharded = current_world().size > 1 and loop.sharding != "ddp"
        if loop.compile:  # in place, so that names stay; per shape, so that a last, odd batch slows no other
            for module in blocks_of(task.model) if self.sharded else [task.model]:
                module.compile(dynamic=False)
        if self.sharded:
            if loop.param_dtype not in ("float32", precision):
                raise UserError(
                    f"loop.param_dtype is {loop.param_dtype} and loop.precision {precision}: weights are "
                    "gathered in float32, or in the type that is computed in"
                )
            mesh, policy = device_mesh(loop, device), mixed_precision(loop)
            for name in MODULES:
                module = getattr(task, name)
                if module is not None:
                    self.whole[name] = copy.deepcopy(module).cpu()
                    shard(module, mesh, policy)
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
        """Make the task's model, and the average of its weights, whole and alike in all processes here."""
        trained = {name: getattr(self.task, name) for name in self.whole}
        for name, whole in self.whole.items():
            whole.load_state_dict(get_model_state_dict(trained[name], options=FULL))
            setattr(self.task, name, whole.to(self.device))
        if current_world().size > 1 and not self.sharded:
            for buffer in self.task.model.buffers():  # of a batch norm: each process has seen other images
                dist.broadcast(buffer, src=0)
        try:
            yield
        finally:
            for name, whole in self.whole.items():
                setattr(self.task, name, trained[name])
                whole.cpu()

    def finish(self) -> None:
        """Leave the task with whole modules, for what comes after training."""
        with self.whole_model():
            whole = {name: getattr(self.task, name) for name in self.whole}
        for name, module in whole.items():
            setattr(self.task, name, module.to(self.device))

    def state_dict(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of task, model and optimiser: sharded, or whole and on the CPU of rank zero.

        Its names do not depend on how the run is spread. All processes have to call this.
        """
        options = SHARDED if self.sharded else FULL_ON_CPU
        return {
            **self.task.state_dict(),
            **{
                called: get_model_state_dict(module, options=options)
                for called, module in self._modules().items()
            },
            "optimizer": get_optimizer_state_dict(self.task.model, optimizer, options=options),
        }

    def load_state_dict(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Restore task, model and optimiser from what `state_dict` gave, made whole.

        Args:
            state: whole in rank zero, which hands it on tensor by tensor; the others need nothing `LARGE`
            optimizer: of the task's model
        """
        options = HANDED_ON if current_world().size > 1 else FULL
        self.task.load_state_dict(state)
        for called, module in self._modules().items():
            set_model_state_dict(module, dict(weights_in(state, called)), options=options)
        set_optimizer_state_dict(self.task.model, optimizer, state.get("optimizer", {}), options=options)

    def misfit(self, state: dict[str, Any]) -> str | None:
        """Tell what of a whole state does not fit the task's modules, if anything."""
        for called, module in self._modules().items():
            here = {name: tuple(each.shape) for name, each in module.state_dict().items()}
            there = {name: tuple(each.shape) for name, each in weights_in(state, called).items()}
            for name in here | there:
                if here.get(name) != there.get(name):
                    return f"{called}.{name} is {there.get(name, 'absent')} there, {here.get(name)} here"
        return None

    def _modules(self) -> dict[str, nn.Module]:
        """Return the modules of the task by what a checkpoint calls their weights."""
        found = {called: getattr(self.task, name) for name, called in MODULES.items()}
        return {called: module for called, module in found.items() if module is not None}


def weights_in(state: dict[str, Any], called: str) -> dict[str, Tensor]:
    """Return the weights of that name in a state; an average that is begun later begins at the model."""
    found: dict[str, Tensor] = state.get(called, state.get("model", {}))
    return found


def small_part(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what of a checkpoint all processes need at hand: all but what is of the size of a model."""
    return None if state is None else {name: each for name, each in state.items() if name not in LARGE}


class TaskStep(nn.Module):
    """A task's step as the forward pass of a module, so that DDP sees whatever the task calls in it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and metrics of a micro-batch."""
        return self.task.step(batch)


def device_mesh(loop: LoopConfig, device: torch.device) -> DeviceMesh:
    """Return the processes in a row (fsdp), or in rows that hold one copy of the model each (hsdp).

    Raises:
        UserError: the processes do not fill equal rows
    """
    world = current_world()
    if loop.sharding == "fsdp":
        return init_device_mesh(device.type, (world.size,))
    row = loop.shard_processes or world.local_size
    if world.size % row:
        raise UserError(f"loop.shard_processes is {row}: {world.size} processes cannot be cut into such rows")
    return init_device_mesh(device.type, (world.size // row, row), mesh_dim_names=("replicate", "shard"))


def mixed_precision(loop: LoopConfig) -> MixedPrecisionPolicy:
    """Return the types that weights are gathered and gradients reduced in."""
    return MixedPrecisionPolicy(
        param_dtype=AUTOCAST_DTYPES.get(loop.param_dtype),
        reduce_dtype=torch.bfloat16 if loop.reduce_dtype == "bf16" else torch.float32,
    )


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a network, inner ones first.

    A block is an element of a list or sequence that has modules of its own.
    """
    containers = (nn.ModuleList, nn.Sequential)
    return [
        block
        for container in reversed([each for each in model.modules() if isinstance(each, containers)])
        for block in container
        if not isinstance(block, containers) and any(True for _ in block.children())
    ]


def shard(model: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Shard a model's parameters in place with FSDP2: block by block, gathered when called, then the rest.

    What comes into a block takes the type of its weights; images stay as they are.
    """
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=replace(policy, cast_forward_inputs=False))
