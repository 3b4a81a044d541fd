"""Compile the Triton kernels of networks for this GPU, many at once, so that no benchmark waits for them.

    python benchmarks/warm.py MODEL... [--image-size 224] [--workers 16]

Triton compiles a kernel where it is first called, one after another, for up to half a minute each, and keeps
it on disk. Here processes call them side by side, each once, on the smallest input: over visible tiles for
pre-training and over dense maps for fine-tuning, in bf16; parameters are in float32, as autocast leaves them,
and in bf16, as the benchmarks of single kernels have them.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from models.kernels.depthwise import depthwise_map, depthwise_tiles
from models.kernels.grn import gelu_grn
from models.sizes import find_size

DECODER_WIDTH = 512
# Operation, side of the tile or map, channels, type of the parameters.
Job = tuple[str, int, int, torch.dtype]


def main() -> None:
    """Compile all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    options = parser.parse_args()
    todo = list(dict.fromkeys(job for name in options.models for job in jobs(name, options.image_size)))
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(call_on_gpu, todo))
    print(f"{len(todo)} calls made, forward and backward")


def jobs(model: str, image_size: int) -> list[Job]:
    """What a network calls, the longest to compile first."""
    stages = [(8 >> stage, image_size // 4 >> stage, dim) for stage, dim in enumerate(find_size(model).dims)]
    types = (torch.float32, torch.bfloat16)
    tiles = [("tiles", side, dim, dtype) for side, _, dim in stages for dtype in types]
    maps = [("map", size, dim, dtype) for _, size, dim in stages for dtype in types]
    maps.append(("map", image_size // 32, DECODER_WIDTH, torch.float32))
    widths = [dim for _, _, dim in stages] + [DECODER_WIDTH]
    return tiles + maps + [("grn", 1, 4 * dim, dtype) for dim in widths for dtype in types]


def call_on_gpu(job: Job) -> None:
    """See `call`."""
    call(job, "cuda", torch.bfloat16)


def call(job: Job, device: str, dtype: torch.dtype) -> None:
    """Run an operation forward and backward on one tile, or on one image."""
    operation, side, channels, parameters = job

    def draw(*shape: int, dtype: torch.dtype = parameters) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=dtype, requires_grad=True)

    x, bias = draw(1, side, side, channels, dtype=dtype), draw(channels)
    if operation == "grn":
        out = gelu_grn(x, draw(channels), bias, impl="triton")
    elif operation == "map":
        out = depthwise_map(x, draw(channels, 1, 7, 7), bias, impl="triton")
    else:
        alone = torch.full((1, side + 6, side + 6), side**2, device=device)  # it sees nothing but itself
        alone[:, 3:-3, 3:-3] = torch.arange(side**2, device=device).view(side, side)
        out = depthwise_tiles(x, draw(channels, 1, 7, 7), bias, alone, impl="triton")
    out.float().sum().backward()


if __name__ == "__main__":
    main()
