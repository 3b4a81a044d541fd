"""The processes of a run: how they join, and what they agree on."""

import logging
import os
import pickle
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fcmae.core.errors import TransientError, UserError, explain
from fcmae.core.world import World, find_world, first_host, port_of_step

if TYPE_CHECKING:  # importing torch takes seconds, and a process that is alone needs nothing of it here
    from torch import Tensor

T = TypeVar("T")

RANK_ZERO_TIMEOUT = timedelta(hours=2)  # how long the others wait for what only rank zero does
FILES_FOR_ALL = 1024  # open files that a process may need whatever the number of processes


@dataclass
class _Meeting:
    """What ties this process to the others.

    Args:
        store: of torch.distributed: what rank zero serves to all, one connection each
        step_timeout: how long a process waits for the others once steps are taken
        limit: the setting that says how long it waits now
        handed_on: how often `from_rank_zero` was called
    """

    store: Any
    step_timeout: timedelta
    limit: str = "loop.start_minutes"
    handed_on: int = 0


_joined = World()
_meeting: _Meeting | None = None


def current_world() -> World:
    """Return the processes that this one has joined; a world of one before that."""
    return _joined


@contextmanager
def joined(device: str, timeout_minutes: float, start_minutes: float | None = None) -> Iterator[World]:
    """Join the other processes of the run, if there are any, for as long as the context lasts.

    Tensors on the CPU are exchanged by gloo, those on a GPU by NCCL. gloo connects two processes when they
    first exchange something: a ring needs two connections, whatever the number of processes. Only rank zero
    talks, see `silence`. An exception that leaves the context says which process it is from.

    Args:
        device: the run's device, by name; each process of a machine takes the GPU of its own number
        timeout_minutes: how long a process waits for the others before it gives up, once steps are taken
        start_minutes: how long before that, see `expect_steps`; by default as long

    Raises:
        TransientError: the processes cannot meet
        UserError: there are more of them than GPUs
    """
    global _joined, _meeting
    world = find_world()
    if world.size == 1:
        yield world
        return
    start_minutes = timeout_minutes if start_minutes is None else start_minutes
    for name, value in {"timeout_minutes": timeout_minutes, "start_minutes": start_minutes}.items():
        if value <= 0:
            raise UserError(f"loop.{name} is {value:g}: it must be above 0")
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if _take_gpu(device, world) else "gloo"
    store = _meet(world, backend, timedelta(minutes=start_minutes))
    _joined, _meeting = world, _Meeting(store, timedelta(minutes=timeout_minutes))
    try:
        with nullcontext() if world.is_rank_zero else silence():
            yield world
    except UserError as error:
        named = type(error)(f"{world}: {error}")
        named.of_process = True
        raise named from error
    except Exception as error:
        error.add_note(
            f"This is {world}. A connection that was closed means that another process ended, one that timed "
            f"out that another is stuck, or slower than {_meeting.limit} allows: its own output tells why. "
            "The same command goes on with the run."
        )
        raise
    finally:
        _joined, _meeting = World(), None
        dist.destroy_process_group()


def _meet(world: World, backend: str, timeout: timedelta) -> Any:
    """Make the process group of all processes; return the store that they reached each other by.

    Raises:
        TransientError: the processes cannot meet
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    os.environ.setdefault("MASTER_ADDR", first_host())
    os.environ.setdefault("MASTER_PORT", str(port_of_step()))
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    _allow_open_files(FILES_FOR_ALL + 4 * world.size)
    try:
        store, _, _ = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
        dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=timeout)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        meeting = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = " ".join(str(error).split())[:300]
        raise TransientError(
            f"{world}: the processes cannot meet at {meeting} ({reason}); if the port is in use, choose "
            "another one with MASTER_PORT (torchrun: --master-port); if machines start one long after "
            "another, raise loop.start_minutes"
        ) from error
    return dist.distributed_c10d.PrefixStore("fcmae", store)


def expect_steps() -> None:
    """Wait until all have taken the first step; from then on, no longer than a step may take."""
    if _meeting is None or _meeting.limit == "loop.timeout_minutes":
        return
    import torch.distributed as dist

    max_over_processes(0)
    # Public from torch 2.12 on; before that its name began with an underscore.
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(_meeting.step_timeout)
    _meeting.limit = "loop.timeout_minutes"


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
    """Call `make` in rank zero, and return in all processes what it returns there, once all have it.

    The others wait for two hours, not for the minutes of `joined`: looking through a large folder takes time.
    It goes by the store, which each process is connected to anyway, and is for small things.

    Raises:
        UserError: in rank zero, where `make` raises it, or an error of the system that has a remedy
        SystemExit: with the status that the error gives, in the others then
    """
    if _meeting is None:
        return make()
    world, store = current_world(), _meeting.store
    key = f"from_rank_zero/{_meeting.handed_on}"
    taken = f"{key}/taken"
    _meeting.handed_on += 1
    made: T | None = None
    refused: UserError | None = None
    if world.is_rank_zero:
        try:
            made = make()
        except UserError as error:
            refused = error
        except OSError as error:
            refused = explain(error)
            if refused is None:
                raise
        store.set(key, pickle.dumps((made, refused)))
        store.wait([taken], RANK_ZERO_TIMEOUT)
        for each in (key, taken, f"{taken}/count"):
            store.delete_key(each)
    else:
        store.wait([key], RANK_ZERO_TIMEOUT)
        made, refused = pickle.loads(store.get(key))  # noqa: S301  rank zero's own
        if store.add(f"{taken}/count", 1) == world.size - 1:
            store.set(taken, "")
    if refused is not None:
        raise_together(refused)
    return cast(T, made)


def in_rank_zero(make: Callable[[], T]) -> T | None:
    """Call `make` in rank zero and return what it returns there, None in the others; see `from_rank_zero`."""
    made: list[T] = []
    from_rank_zero(lambda: made.append(make()))
    return made[0] if made else None


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


def _allow_open_files(count: int) -> None:
    """Raise the number of files that this process may open: rank zero serves a connection to each other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
