"""What does exchanging gradients cost, on paper for a cluster and measured here between processes?

    python benchmarks/communication.py [--nodes 8] [--gpus-per-node 8] [--tflops 200]
    python benchmarks/communication.py --processes 8 64 512 [--model convnextv2_huge]
    torchrun --nproc-per-node 2 benchmarks/communication.py --measure [--model convnextv2_atto] [--batch 4]
    torchrun --nproc-per-node 8 benchmarks/communication.py --count

The first prints, for each size, the bytes of a step and the images per GPU from which on they travel while
the backward pass computes; the second what so many processes cost beside their steps. The third checks that
the processes' gradients agree, then times steps with and without the exchange, in turns. The last counts the
connections of a process.
"""

import argparse
import os
import statistics
import time
from contextlib import nullcontext

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.nn.parallel import DistributedDataParallel

from fcmae.core.distributed import (
    current_world,
    from_rank_zero,
    gather_lists,
    joined,
    max_over_processes,
    sum_over_processes,
)
from fcmae.engine.config import LoopConfig
from fcmae.models.complexity import measure_complexity
from fcmae.models.sizes import SIZES
from fcmae.pretraining.model import FCMAE

VISIBLE, PATCHES = 19, 49  # of 224 x 224 pixels at mask ratio 0.6
WIDTH = 512  # of the decoder
LINKS = (50, 400)  # Gb/s of a node
MESSAGE = 50e-6  # seconds of a small message between two machines, assumed
BACKWARD = 2 / 3  # its share of a step's arithmetic


def main() -> None:
    """Print the table, or measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--tflops", type=float, default=200.0, help="that a GPU sustains")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--processes", type=int, nargs="+", help="print what so many cost")
    parser.add_argument("--model", help="convnextv2_atto, of --processes convnextv2_huge")
    parser.add_argument("--batch", type=int, default=4, help="images of each process")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if options.measure or options.count:
        options.model = options.model or "convnextv2_atto"
        with joined("cpu", timeout_minutes=5.0):
            count() if options.count else measure(options)
    elif options.processes:
        print_costs(options.model or "convnextv2_huge", options.processes)
    else:
        print_table(options)


def print_table(options: argparse.Namespace) -> None:
    """Print, for each published size, the gradients' traffic and the images per GPU that hide it.

    A ring between nodes sends and receives 2 (n - 1) / n of the gradients' bytes through each node's link;
    inside a node NVLink is an order of magnitude faster and left out.
    """
    table = Table(
        title=f"{options.nodes} nodes x {options.gpus_per_node} GPUs that sustain {options.tflops:g} "
        "TFLOP/s, 224 px, mask 0.6, gradients in float32",
        title_justify="left",
    )
    speeds = [f"ms at {each} Gb/s" for each in LINKS]
    for heading in ("model", "parameters M", "GFLOP/image", "MB/step", *speeds):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for each in LINKS:
        table.add_column(f"images/GPU at {each} Gb/s", justify="right")
    for name in (each for each, size in SIZES.items() if not size.layer_scale):
        with torch.device("meta"):
            parameters = sum(each.numel() for each in FCMAE(name).parameters())
        flop = 6 * (
            measure_complexity(name, num_visible=VISIBLE, features_only=True).macs + decoder_macs(name)
        )
        traffic = 2 * (options.nodes - 1) / options.nodes * 4 * parameters
        seconds = [8 * traffic / (link * 1e9) for link in LINKS]
        image = BACKWARD * flop / (options.tflops * 1e12)
        table.add_row(
            name,
            f"{parameters / 1e6:.1f}",
            f"{flop / 1e9:.1f}",
            f"{4 * parameters / 1e6:.0f}",
            *(f"{1e3 * each:.1f}" for each in seconds),
            *(f"{each / image:.0f}" for each in seconds),
        )
    Console(width=130).print(table)


def decoder_macs(name: str) -> int:
    """Multiply-adds of projection, block (7 x 7 depthwise, two linear layers) and prediction."""
    width = SIZES[name].dims[-1]
    position = width * WIDTH + 49 * WIDTH + 2 * 4 * WIDTH * WIDTH + WIDTH * 32 * 32 * 3
    return PATCHES * position


def print_costs(name: str, processes: list[int]) -> None:
    """Print what numbers of processes cost beside their steps, as docs/slurm.md has it."""
    with torch.device("meta"):
        model = FCMAE(name)
    state = 3 * 4 * sum(each.numel() for each in model.parameters()) / 1e9  # weights and AdamW's two moments
    largest = 4 * max(each.numel() for each in model.parameters()) / 1e6
    agree = LoopConfig().agree_seconds
    rows: dict[str, list[str]] = {
        "connections of a process": [f"{connections(n)}" for n in processes],
        "... of rank zero, which serves the store": [f"{connections(n, rank_zero=True)}" for n in processes],
        f"GB read to resume {name}, all by rank zero": [f"{state:.1f}" for _ in processes],
        "... MB of it at once in another process": [f"{largest:.0f}" for _ in processes],
        "GB that a process writes of a checkpoint, sharded": [f"{state / n:.3f}" for n in processes],
        "... of one that is not, rank zero": [f"{state:.1f}" for _ in processes],
        "messages in a row to agree on stopping": [f"{2 * (n - 1)}" for n in processes],
        f"... % of the time, every {agree:g} s": [
            f"{200 * (n - 1) * MESSAGE / agree:.2f}" for n in processes
        ],
        "requests to the store for what rank zero hands on": [f"{3 * (n - 1) + 5}" for n in processes],
    }
    table = Table(title="Beside the steps", title_justify="left")
    table.add_column("processes")
    for each in processes:
        table.add_column(f"{each}", justify="right")
    for row, values in rows.items():
        table.add_row(row, *values)
    Console(width=130).print(table)


def connections(processes: int, rank_zero: bool = False) -> int:
    """Return the sockets of a process at most: store and listener, a ring, and trees that grow and shrink.

    Rank zero listens for the store too, and is at both ends of its own connection to it.
    """
    return 4 + 2 * (processes.bit_length() - 1) + (processes + 1 if rank_zero else 0)


def count() -> None:
    """Count the sockets of each process after it exchanged what a run exchanges."""
    values = torch.ones(1000)
    for _ in range(3):
        dist.broadcast(values, src=0)
        max_over_processes(1)
        from_rank_zero(lambda: None)
    dist.barrier()
    found = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
    counts = gather_lists([sum("socket:" in each for each in found)])
    size = current_world().size
    print(
        f"{size} processes: {counts[0]} sockets of rank zero (at most {connections(size, rank_zero=True)}), "
        f"{max(counts[1:])} of another (at most {connections(size)})"
    )


def measure(options: argparse.Namespace) -> None:
    """Median milliseconds of a forward and backward pass, with and without the exchange of gradients."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DistributedDataParallel(FCMAE(options.model))
    world = current_world()
    generator = torch.Generator().manual_seed(world.rank)
    images = torch.rand(options.batch, 3, 224, 224, generator=generator)

    def step(exchange: bool) -> float:
        model.zero_grad()
        dist.barrier()
        started = time.perf_counter()
        with nullcontext() if exchange else model.no_sync():
            model(images, generator=generator)[0].backward()
        dist.barrier()
        return 1e3 * (time.perf_counter() - started)

    step(exchange=True)
    norm = torch.nn.utils.get_total_norm([each.grad for each in model.parameters() if each.grad is not None])
    torch.testing.assert_close(sum_over_processes(norm), norm * world.size, rtol=1e-6, atol=0)
    times = [(step(exchange=True), step(exchange=False)) for _ in range(options.repeats)]
    quartiles = statistics.quantiles([1e2 * (with_it / without - 1) for with_it, without in times], n=4)
    print(
        f"{world.size} processes x {options.batch} images, {options.model}, one thread each: "
        f"{statistics.median(each for each, _ in times):.0f} ms a step, "
        f"{statistics.median(each for _, each in times):.0f} ms without the exchange; "
        f"overhead {quartiles[1]:.1f} % (quartiles {quartiles[0]:.1f} to {quartiles[2]:.1f})"
    )


if __name__ == "__main__":
    main()
