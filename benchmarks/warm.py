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

from fcmae import create_model
from fcmae.models.kernels.calls import Call, record_calls
from fcmae.models.kernels.selftest import prepare, tile_of
from fcmae.pretraining.model import FCMAE

Job = tuple[Call, torch.dtype]  # the type is of the parameters


def main() -> None:
    """Compile all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    options = parser.parse_args()
    todo = list(dict.fromkeys(job for name in options.models for job in jobs(name, options.image_size)))
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(run_on_gpu, todo))
    print(f"{len(todo)} calls made, forward and backward")


def jobs(model: str, image_size: int) -> list[Job]:
    """What a network calls in pre-training and in fine-tuning, the longest to compile first."""
    with torch.device("meta"):
        images = torch.empty(1, 3, image_size, image_size)
        examples = [*FCMAE(model, image_size).examples(), (create_model(model), (images,))]
    calls = [call for module, args in examples for call in record_calls(module, *args)]
    calls = sorted((call for call in calls if tile_of(call)), key=tile_of, reverse=True)
    return [(call, dtype) for call in dict.fromkeys(calls) for dtype in (torch.float32, torch.bfloat16)]


def run_on_gpu(job: Job) -> None:
    """See `run`."""
    run(job, "cuda", torch.bfloat16)


def run(job: Job, device: str, dtype: torch.dtype) -> None:
    """Run a small example of a call forward and backward."""
    call, parameters = job
    operation, inputs = prepare(call, torch.device(device), dtype, parameters)
    operation("triton", *inputs).float().sum().backward()


if __name__ == "__main__":
    main()
