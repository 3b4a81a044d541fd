"""The processes of a run: which one this is, how they find each other, and what they agree on."""

import logging
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from fcmae.core.errors import TransientError, UserError, explain

if TYPE_CHECKING:  # importing torch takes seconds, and a process that is alone needs nothing of it here
    from torch import Tensor

T = TypeVar("T")

RANK_ZERO_TIMEOUT = timedelta(hours=2)  # how long the others wait for what only rank zero does


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Args:
        rank: number of this process, from 0
        size: number of processes
        local_rank: number of this process on its machine, from 0
        local_size: number of processes on its machine
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size} on {socket.gethostname()}"


_joined = World()
_rank_zero_group: Any = None  # of torch.distributed, for what only rank zero does


def current_world() -> World:
    """Return the processes that this one has joined; a world of one before that."""
    return _joined


def find_world() -> World:
    """Tell from the environment how this process was started: by torchrun or submitit, by srun, or alone.

    torchrun sets RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. srun sets SLURM_STEP_NUM_TASKS and more;
    a batch script or an salloc shell, which is no task of a step, has no such variable and is alone.

    Raises:
        UserError: the variables contradict each other
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name) for name in names]
    if values[:2] == [None, None] and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
        values = [os.environ.get(name) for name in names]
    if values[:2] == [None, None]:
        return World()
    try:
        rank, size = int(values[0] or ""), int(values[1] or "")
        local_rank = int(values[2] or "0")
        local_size = int((values[3] or "1").split("(")[0].split(",")[0])  # SLURM writes 8(x2) or 8,4
    except ValueError:
        shown = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UserError(f"{shown}: expected numbers, as torchrun and srun set them") from None
    if not 0 <= rank < size:
        raise UserError(f"{names[0]}={rank} is not below {names[1]}={size}")
    return World(rank, size, local_rank, local_size)


@contextmanager
def joined(device: str, timeout_minutes: float) -> Iterator[World]:
    """Join the other processes of the run, if there are any, for as long as the context lasts.

    Tensors on the CPU are exchanged by gloo, those on a GPU by NCCL. Only rank zero talks, see `silence`. An
    exception that leaves the context says which process it is from.

    Args:
        device: the run's device, by name; each process of a machine takes the GPU of its own number
        timeout_minutes: how long a process waits for the others before it gives up

    Raises:
        TransientError: the processes cannot meet
        UserError: there are more of them than GPUs
    """
    global _joined, _rank_zero_group
    world = find_world()
    if world.size == 1:
        yield world
        return
    if timeout_minutes <= 0:
        raise UserError(f"loop.timeout_minutes is {timeout_minutes:g}: it must be above 0")
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if _take_gpu(device, world) else "gloo"
    os.environ.setdefault("MASTER_ADDR", _first_host())
    os.environ.setdefault("MASTER_PORT", str(_port_of_step()))
    timeout = timedelta(minutes=timeout_minutes)
    try:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=timeout)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        meeting = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = " ".join(str(error).split())[:300]
        raise TransientError(
            f"{world}: the processes cannot meet at {meeting} ({reason}); if the port is in use, choose "
            "another one with MASTER_PORT (torchrun: --master-port)"
        ) from error
    _joined, _rank_zero_group = world, dist.new_group(backend="gloo", timeout=RANK_ZERO_TIMEOUT)
    try:
        with nullcontext() if world.is_rank_zero else silence():
            yield world
    except UserError as error:
        named = type(error)(f"{world}: {error}")
        named.of_process = True
        raise named from error
    except Exception as error:
        error.add_note(
            f"This is {world}. A connection that was closed or timed out means that another process ended or "
            "is stuck: its own output tells why. The same command goes on with the run."
        )
        raise
    finally:
        _joined, _rank_zero_group = World(), None
        dist.destroy_process_group()


@contextmanager
def silence() -> Iterator[None]:
    """Keep this process from saying what rank zero says too: output and warnings, not errors."""
    ours = logging.getLogger(__package__.partition(".")[0])
    level = ours.level
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.setLevel(logging.ERROR)
        try:
            yield
        finally:
            ours.setLevel(level)


def from_rank_zero(make: Callable[[], T]) -> T:
    """Call `make` in rank zero, and return in all processes what it returns there.

    The others wait for two hours, not for the minutes of `joined`: looking through a large folder takes time.

    Raises:
        UserError: in rank zero, where `make` raises it, or an error of the system that has a remedy
        SystemExit: with the status that the error gives, in the others then
    """
    if current_world().size == 1:
        return make()
    import torch.distributed as dist

    shared: list[Any] = [None, None]
    if current_world().is_rank_zero:
        try:
            shared[0] = make()
        except UserError as error:
            shared[1] = error
        except OSError as error:
            shared[1] = explain(error)
            if shared[1] is None:
                raise
    dist.broadcast_object_list(shared, src=0, group=_rank_zero_group)
    if shared[1] is not None:
        raise_together(shared[1])
    made: T = shared[0]
    return made


def raise_together(error: UserError) -> None:
    """End all processes by an error that all of them know of: rank zero raises it, the others are silent.

    Raises:
        UserError: in rank zero
        SystemExit: with the status that the error gives, in the others
    """
    if current_world().is_rank_zero:
        raise error
    sys.exit(error.exit_status)


def max_over_processes(*values: int) -> list[int]:
    """Return the largest of each value over all processes; wait for them, and never for the device."""
    if current_world().size == 1:
        return list(values)
    import torch
    import torch.distributed as dist

    table = torch.tensor(values)
    dist.all_reduce(table, dist.ReduceOp.MAX)
    return table.tolist()


def mean_over_processes(values: "Tensor") -> "Tensor":
    """Return the mean of a tensor over all processes, in float64; the tensor itself where there is one."""
    if current_world().size == 1:
        return values
    import torch
    import torch.distributed as dist

    total = values.to(torch.float64, copy=True)
    dist.all_reduce(total)
    return total / current_world().size


def sum_over_processes(values: "Tensor") -> "Tensor":
    """Return the sum of a tensor over all processes, in its own type: counts stay exact."""
    if current_world().size == 1:
        return values
    import torch.distributed as dist

    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_lists(items: list[T]) -> list[T]:
    """Return the lists of all processes one after another, in all of them."""
    if current_world().size == 1:
        return items
    import torch.distributed as dist

    lists: list[Any] = [None] * current_world().size
    dist.all_gather_object(lists, items)
    return [item for each in lists for item in each]


def _take_gpu(device: str, world: World) -> bool:
    """Make this process's GPU the current one, and return whether there is one to compute on.

    Raises:
        UserError: a numbered device, or more processes than GPUs
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: {world.size} processes choose their own; use auto, cpu or cuda")
    count = torch.cuda.device_count() if device != "cpu" else 0
    if count == 0:
        return False  # where cuda was asked for, picking the device says what is wrong
    if world.local_size > count > 1 or (count == 1 and _shares_gpu(world)):
        raise UserError(f"{world}: {world.local_size} processes and {count} GPUs on this machine")
    torch.cuda.set_device(world.local_rank if count > 1 else 0)
    return True


def _shares_gpu(world: World) -> bool:
    """Return whether the one visible GPU is that of others too: a cluster may show each process its own."""
    own = "SLURM_STEP_NUM_TASKS" in os.environ or "SUBMITIT_EXECUTOR" in os.environ
    return world.local_size > 1 and not own


def _first_host() -> str:
    """Return the machine of rank zero: the first of a SLURM step, or this one."""
    nodes = os.environ.get("SLURM_STEP_NODELIST")
    if nodes is None:
        return "127.0.0.1"
    listing = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    )
    return listing.stdout.split()[0]


def _port_of_step() -> int:
    """Return a port between 20000 and 60000 that two steps of a cluster hardly share."""
    job = int(re.sub(r"\D", "", os.environ.get("SLURM_JOB_ID", "")) or 0)
    step = int(re.sub(r"\D", "", os.environ.get("SLURM_STEP_ID", "")) or 0)
    return 20000 + (17 * job + step) % 40000
