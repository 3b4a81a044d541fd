"""Several processes of one's own, over gloo: DistributedDataParallel and FSDP2, beside one process alone.

Shapes: B batch, C channels, H W pixels.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import spawn as start_processes
from torch.nn.parallel import DistributedDataParallel

from fcmae import create_model
from fcmae.models.block import Block
from fcmae.pretraining.model import FCMAE

PROCESSES = 2
SMALL: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (6, 8, 12, 16)}


def test_data_parallel_and_sharded_training(tmp_path: Path) -> None:
    """In plain loops, all warnings being errors in the first; weights are those of a process by itself."""
    start_processes(train_both_ways, (str(tmp_path / "store"),), nprocs=PROCESSES)


def train_both_ways(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    images = torch.randn(4, 3, 70, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone = small_network()
    train(alone, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data_parallel(images.chunk(PROCESSES)[rank], list(alone.parameters()))
    sharded(images.chunk(PROCESSES)[rank], list(alone.parameters()))
    dist.destroy_process_group()


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("convnextv2_atto", num_classes=3, **SMALL).double()


def train(network: nn.Module, images: Tensor, steps: int = 3) -> None:
    """A plain loop."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()


def data_parallel(images: Tensor, expected: list[nn.Parameter]) -> None:
    """Train with DDP, also what pre-training trains."""
    network = small_network()
    train(DistributedDataParallel(network), images)
    torch.testing.assert_close(list(network.parameters()), expected, rtol=1e-6, atol=1e-8)
    parallel = DistributedDataParallel(FCMAE("convnextv2_atto", 64, decoder_dim=16, **SMALL))
    for _ in range(2):
        parallel(torch.randn(2, 3, 64, 64))[0].backward()


def sharded(images: Tensor, expected: list[nn.Parameter]) -> None:
    """Train with FSDP2, each block's weights spread over the processes."""
    network, mesh = small_network(), init_device_mesh("cpu", (PROCESSES,))
    for module in network.modules():
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh)
    fully_shard(network, mesh=mesh)
    train(network, images)
    for found, other in zip(network.parameters(), expected, strict=True):
        assert isinstance(found, DTensor)
        torch.testing.assert_close(found.full_tensor(), other.data, rtol=1e-6, atol=1e-8)
