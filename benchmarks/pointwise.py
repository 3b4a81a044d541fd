"""Is a linear layer faster as a product or as a convolution of one by one, on this CPU?

    python benchmarks/pointwise.py [--model convnextv2_atto] [--batch 8] [--image-size 224] [--mask-ratio 0.6]
        [--threads N] [--repeats 20] [--no-compile]

Both linear layers of a block in each stage of a model, over the visible positions, forward and backward in
float32; then whole optimiser steps. The two take turns, and are first held against float64, or each other.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from unittest.mock import patch

import torch
from kernels import check, stages, tiles_layout
from machine import common_parser, set_up
from rich.console import Console
from rich.table import Table
from step import BUDGET, Step, check_agreement, finetuning, pretraining
from timing import Spread, ratios, time_side_by_side
from torch import Tensor

from fcmae.models.kernels import pointwise as module
from fcmae.models.kernels.pointwise import pointwise

IMPLS = ("linear", "convolution")


@dataclass
class StepOf(Step):
    """An optimiser step with linear layers of one kind."""

    kind: str = "linear"

    def backward(self) -> Tensor:
        with patch.object(module, "_MKL_LAGS", self.kind == "convolution"):
            return super().backward()


def main() -> None:
    """Check, time, print."""
    parser = common_parser(__doc__ or "", precision="float32", grad_checkpointing=False)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parser.parse_args()
    device = set_up(options)
    time_layers(options, device)
    time_steps(options, device)


def time_layers(options: argparse.Namespace, device: torch.device) -> None:
    """Print a table of the linear layers."""
    batch, visible = tiles_layout(options).visible.shape
    table = Table(title=f"{options.model}, batch {options.batch}, ms", title_justify="left")
    for heading in ("layer", *IMPLS, "times linear", "GFLOP/s"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for number, p, narrow in stages(options):
        rows = batch * visible * p * p
        for channels, out in ((narrow, 4 * narrow), (4 * narrow, narrow)):
            name = f"stage {number}, {rows} x {channels} to {out}"
            seconds = time_side_by_side(
                two_ways(name, (batch, visible, p * p), channels, out), options.repeats, device
            )
            linear, convolution = (Spread.of([1e3 * each for each in seconds[impl]]) for impl in IMPLS)
            gain = ratios(seconds["linear"], seconds["convolution"])
            speed = 6 * rows * channels * out / convolution.median / 1e6
            table.add_row(name, str(linear), str(convolution), str(gain), f"{speed:.0f}")
    Console(width=140).print(table)


def time_steps(options: argparse.Namespace, device: torch.device) -> None:
    """Print a table of whole steps: pre-training in tiles, and fine-tuning."""
    table = Table(title=f"whole step of {options.model}, batch {options.batch}, ms", title_justify="left")
    for heading in ("step", *IMPLS, "times linear"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for make in (pretraining, finetuning):
        for name, each in make(options, device)[0].items():
            if not name.startswith(("tiles", "ours")):
                continue
            ways = {
                k: StepOf(each.model, each.compute_loss, "float32", "torch", each.mode, kind=k) for k in IMPLS
            }
            if check_agreement(dict(ways), BUDGET["float32"]) != list(IMPLS):
                raise SystemExit(f"{name}: the two do not agree")
            seconds = time_side_by_side(dict(ways), options.repeats, device)
            linear, convolution = (str(Spread.of([1e3 * value for value in seconds[k]])) for k in IMPLS)
            table.add_row(f"{make.__name__}, {name}", linear, convolution, str(ratios(*seconds.values())))
    Console(width=140).print(table)


def two_ways(name: str, lead: tuple[int, ...], channels: int, out: int) -> dict[str, Callable[[], object]]:
    """The passes to time, after they were checked."""
    shapes = ((*lead, channels), (out, channels), (out,))
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    direction = torch.randn(*lead, out)

    def one(impl: Literal["linear", "convolution"]) -> Callable[[], object]:
        def layer(inputs: list[Tensor]) -> Tensor:
            x, weight, bias = inputs
            return pointwise(x, weight, bias, impl)

        check(f"{name}, {impl}", layer, lambda inputs: torch.nn.functional.linear(*inputs), inputs)
        return lambda: torch.autograd.grad(layer(inputs), inputs, direction)

    return {"linear": one("linear"), "convolution": one("convolution")}


if __name__ == "__main__":
    main()
