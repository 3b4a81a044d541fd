"""A small task for several processes, in a module of its own so that those processes can import it."""

import copy
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fcmae.core.distributed import (
    current_world,
    from_rank_zero,
    gather_lists,
    in_rank_zero,
    joined,
    max_over_processes,
    mean_over_processes,
)
from fcmae.core.errors import UserError
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.config import LoopConfig, OptimConfig
from fcmae.engine.history import RunSettings
from fcmae.engine.optim import create_optimizer
from fcmae.engine.parallel import ParallelTask
from fcmae.engine.progress import Summary
from fcmae.engine.run_folder import RunFolder
from fcmae.engine.task import Task
from fcmae.engine.trainer import train
from fcmae.models.shards import map_tensors
from tests.engine.toy_run import ToyConfig

T = TypeVar("T")

STEPS_PER_EPOCH = 4
EPOCHS = 3
TOTAL = STEPS_PER_EPOCH * EPOCHS
BATCH = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(self.norm(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        numbers: Tensor = self.head(x)
        return numbers


class ParallelToy(Task):
    """Regress the largest of six numbers; which samples make up a step does not depend on the processes.

    Args:
        accumulation_steps: micro-batches of a step
        event: rank and step at which something happens
        what: `nan`, or the number of a signal that the process sends itself
        averages: whether to follow a moving average of the weights
    """

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(
        self,
        accumulation_steps: int = 1,
        event: tuple[int, int] | None = None,
        what: str | int = "nan",
        averages: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.model = Network()
        self.average = ModelEmaV3(self.model, decay=0.9) if averages else None
        self.averaged = None if self.average is None else self.average.module
        self.accumulation_steps, self.event, self.what = accumulation_steps, event, what

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        first, *others = self.model.parameters()
        return [
            {"params": [first], "weight_decay": 0.0, "lr_scale": 0.5},
            {"params": others, "weight_decay": weight_decay},
        ]

    def batches(self, start_step: int, total_steps: int) -> Iterator[tuple[int, Tensor]]:
        world = current_world()
        for step in range(start_step, total_steps):
            numbers = torch.rand(BATCH, 6, generator=torch.Generator().manual_seed(step))
            for micro_batch in numbers.view(self.accumulation_steps, world.size, -1, 6)[:, world.rank]:
                yield step + 1, micro_batch

    def step(self, batch: tuple[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        step, numbers = batch
        happens = self.event == (current_world().rank, step)
        if happens and isinstance(self.what, int):
            os.kill(os.getpid(), self.what)
        error = self.model(numbers).squeeze(1) - numbers.amax(1)
        loss = error.square().mean()
        return loss * float("nan") if happens and self.what == "nan" else loss, {"error": error.abs().mean()}

    def describe(self, batch: tuple[int, Tensor]) -> list[str]:
        return [f"rank{current_world().rank}_step{batch[0]}.png"]

    def optimizer_stepped(self, step: int) -> None:
        if self.average is not None:
            self.average.update(self.model)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Return the weights' sum as each process sees it: whole, and the same in all of them."""
        return {
            "weights": weight_sum(self.model),
            "averaged": 0.0 if self.averaged is None else weight_sum(self.averaged),
        }


def weight_sum(module: nn.Module) -> float:
    """Return the sum of a module's weights, which have to be whole, and the same in all processes."""
    weights = sum(each.double().sum() for each in module.parameters())
    assert type(weights) is Tensor
    torch.testing.assert_close(mean_over_processes(weights), weights, rtol=1e-14, atol=0)
    return weights.item()


def run_parallel_toy(folder: Path, task: ParallelToy, **loop: Any) -> tuple[Summary, dict[str, Tensor]]:
    """Train it; return the summary, and the weights that the task is left with."""
    run = RunFolder(folder)
    if current_world().is_rank_zero:
        run.acquire(RunSettings({"task": "parallel toy"}))
    optim = OptimConfig(lr=0.03, warmup_epochs=1.0, clip_grad=0.5, accumulation_steps=task.accumulation_steps)
    options = LoopConfig(**{"save_minutes": 0.0, "log_every": 1, "agree_seconds": 0.0, **loop})
    config = ToyConfig(optim, options, epochs=EPOCHS, batch_size=BATCH)
    summary = train(task, config, device=torch.device("cpu"), run=run, best=("loss", "min"))
    run._held_lock = None  # let go of the folder
    return summary, task.model.state_dict()


def hand_on(folder: Path, loop: dict[str, Any]) -> list[str]:
    """Restore the newest checkpoint, which rank zero alone reads; return what is not as it was read."""
    task = ParallelToy(averages=True)
    parallel = ParallelTask(task, LoopConfig(**loop), "float32", torch.device("cpu"))
    optimizer = create_optimizer(task.parameter_groups(0.05), OptimConfig(), torch.device("cpu"))
    read = in_rank_zero(lambda: Checkpoints(folder / "checkpoints").newest())
    assert (read is not None) == current_world().is_rank_zero
    parallel.load_state_dict(copy.deepcopy(read or {}), optimizer)
    expected: dict[str, Tensor] = {}
    map_tensors(read, lambda path, tensor: expected.setdefault(path, tensor))
    different: list[str] = []

    def compare(path: str, tensor: Tensor) -> Tensor:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if read is not None and not torch.equal(whole, expected[path]):
            different.append(path)
        return tensor

    map_tensors(parallel.state_dict(optimizer), compare)
    assert len(expected) > 10 or read is None
    return different


Scenario = tuple[Path, dict[str, Any], dict[str, Any]]  # folder, arguments of the task, of the loop


def processes_context(heard: bool = False) -> ForkServerContext | SpawnContext:
    """Return how processes are started: by a copy of one that has imported all this, or, to be heard, anew.

    What a copy writes does not reach pytest's `capfd`.
    """
    if heard:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def in_processes(
    size: int,
    scenarios: list[Scenario],
    timeout_minutes: float = 1.0,
    start_minutes: float = 1.0,
    heard: bool = False,
) -> list[int]:
    """Run scenarios one after another in several processes at once; return the exit codes.

    As a launcher would, it kills what outlives the first process by five seconds.
    """
    context = processes_context(heard)
    args = (size, free_port(), scenarios, timeout_minutes, start_minutes)
    processes = [context.Process(target=_run_rank, args=(rank, *args)) for rank in range(size)]
    for process in processes:
        process.start()
    processes[0].join()
    for process in processes:
        process.join(timeout=5)
        process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _run_rank(
    rank: int, size: int, port: int, scenarios: list[Scenario], timeout_minutes: float, start_minutes: float
) -> None:
    _prepare_rank(rank, size, port)
    with joined("cpu", timeout_minutes, start_minutes):
        for folder, task, loop in scenarios:
            run_parallel_toy(folder, ParallelToy(**task), **loop)


def _prepare_rank(rank: int, size: int, port: int) -> None:
    """Make this process one of several, as a launcher would."""
    signal.alarm(300)  # a test that hangs ends
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size))


def call_in_processes(size: int, function: Callable[..., T], *args: Any) -> list[T]:
    """Call a function of a module in several processes that have joined; return what it returns in each."""
    context = processes_context()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    port = free_port()
    processes = [
        context.Process(target=_call_rank, args=(rank, size, port, pipes[rank][1], function, args))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for _, writer in pipes:
        writer.close()
    try:
        return [reader.recv() for reader, _ in pipes]
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()


def _call_rank(
    rank: int, size: int, port: int, writer: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    _prepare_rank(rank, size, port)
    with joined("cpu", 1.0):
        writer.send(function(*args))
        dist.barrier()


def count_sockets() -> int:
    """Return the sockets of this process after it did what a run does with the others."""
    values = torch.ones(1000)
    for _ in range(3):
        dist.broadcast(values, src=0)
        max_over_processes(1)
        mean_over_processes(values)
        gather_lists([1])
        from_rank_zero(lambda: None)
    dist.barrier()
    return sum(os.readlink(f"/proc/self/fd/{each}").startswith("socket:") for each in _open_files())


def _open_files() -> list[str]:
    """Return the numbers of the files that this process has open, without that of this listing."""
    return [each for each in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{each}")]


def refuse_in_processes(size: int) -> list[int]:
    """Start processes whose rank zero finds something wrong while it prepares; return the exit codes."""
    context = multiprocessing.get_context("spawn")
    port = free_port()
    processes = [context.Process(target=_refuse, args=(rank, size, port)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode or 0 for process in processes]


def _refuse(rank: int, size: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size))
    with joined("cpu", 1.0):
        from_rank_zero(_find_something_wrong)


def _find_something_wrong() -> None:
    assert current_world().is_rank_zero
    raise UserError("something is wrong")
