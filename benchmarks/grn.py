"""How near is GELU with GRN, forward and backward, to the memory's speed?

    python benchmarks/grn.py [--model NAME] [--batch N] [--image-size 224] [--mask-ratio 0.6]
        [--precision float32] [--device cpu] [--json FILE]

For each stage of a model, over the visible positions: as PyTorch's autograd does it, with the gradient
written out, and, on a GPU, in Triton. Each is first held against float64. GB/s counts the eight passes of
the Triton kernels for all of them: forward reads x twice and writes once, backward reads x and the gradient
twice and writes once. Five would be the least: a second reading that finds the cache can beat a copy's speed.
"""

import torch
import torch.nn.functional as F
from kernels import Operation, Report, impls, random_tensors, read_options, stages, tiles_layout
from torch import Tensor

from fcmae.models.kernels.choice import Impl
from fcmae.models.kernels.grn import gelu_grn
from fcmae.models.kernels.grn_terms import response, sum_type

PASSES = {"forward": 3, "backward": 5}


def formula(inputs: list[Tensor]) -> Tensor:
    """The paper's formula, left to autograd."""
    x, gamma, beta = inputs
    x = F.gelu(x)
    norm = torch.linalg.vector_norm(x, dim=1, dtype=sum_type(x))
    return gamma * (x * response(norm)[:, None].to(x.dtype)) + beta + x


def fused(impl: Impl) -> Operation:
    """Return the product's function in one implementation."""

    def operation(inputs: list[Tensor]) -> Tensor:
        x, gamma, beta = inputs
        return gelu_grn(x, gamma, beta, impl=impl)

    return operation


def main() -> None:
    """Check, time, print."""
    options = read_options(__doc__ or "")
    report, layout = Report(options), tiles_layout(options)
    batch, visible = layout.visible.shape
    for number, p, channels in stages(options):
        wide = 4 * channels
        inputs = random_tensors(options, (batch, visible * p * p, wide), (wide,), (wide,))
        label = f"stage {number}, {visible * p * p} positions, {wide} channels"
        report.measure(f"{label}, autograd", formula, formula, inputs, PASSES)
        for impl in impls(options):
            report.measure(f"{label}, {impl}", fused(impl), formula, inputs, PASSES)
    report.finish()


if __name__ == "__main__":
    main()
