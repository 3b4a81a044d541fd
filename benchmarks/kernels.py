"""What the benchmarks of single kernels share: options, the shapes of a network, the check and the table."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import common_parser, copy_rate, describe, dtype_of, median_seconds, set_up
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fcmae.models.geometry import count_visible, patch_grid, stage_strides
from fcmae.models.kernels.choice import Impl
from fcmae.models.layouts.tiles import TilesLayout
from fcmae.models.sizes import find_size
from fcmae.pretraining.masking import random_mask

Operation = Callable[[list[Tensor]], Tensor]
STRIDES = stage_strides(4)


def read_options(doc: str) -> argparse.Namespace:
    """The command line; by default what an H200-sized GPU takes, or a CPU in seconds."""
    gpu = torch.cuda.is_available()
    defaults = {"model": "convnextv2_tiny", "batch": 1024, "device": "cuda"} if gpu else {"batch": 2}
    parser = common_parser(doc, repeats=10, **defaults)
    parser.add_argument(
        "--precision", choices=("float32", "bf16", "fp16"), default="bf16" if gpu else "float32"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def impls(options: argparse.Namespace) -> list[Impl]:
    """The implementations that a device runs in earnest."""
    return ["torch", "triton"] if options.device.startswith("cuda") else ["torch"]


def tiles_layout(options: argparse.Namespace) -> TilesLayout:
    """The layout of a batch under random masks."""
    grid = patch_grid(options.image_size, STRIDES[-1])
    visible = count_visible(grid[0] * grid[1], options.mask_ratio)
    mask = random_mask(options.batch, grid, visible, torch.Generator().manual_seed(0))
    return TilesLayout(mask.to(options.device))


def stages(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Number, tile side and channels of each stage."""
    dims = find_size(options.model).dims
    return [(i + 1, STRIDES[-1] // STRIDES[i], dims[i]) for i in range(4)]


def random_tensors(options: argparse.Namespace, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Random numbers of these shapes, in the benchmark's type, that want gradients."""
    dtype = dtype_of(options.precision)
    return [torch.randn(shape, device=options.device, dtype=dtype, requires_grad=True) for shape in shapes]


@dataclass
class Report:
    """Figures of kernels as they come in.

    Args:
        options: the command line
    """

    options: argparse.Namespace
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = set_up(self.options)
        self.copy_rate = copy_rate(self.device)

    def measure(
        self,
        name: str,
        operation: Operation,
        reference: Operation,
        inputs: list[Tensor],
        passes: dict[str, int],
    ) -> None:
        """Check an operation against its reference, time it forward and backward.

        Args:
            operation: from the inputs
            reference: the same in plain PyTorch, for any type
            inputs: x first, then parameters; all want gradients
            passes: what is timed (forward, gradient of x, gradient of parameters, backward), and how many
                passes over a tensor of x's size are counted for it

        Raises:
            SystemExit: it is more than twice as far from float64 as its reference in the same type
        """
        check(name, operation, reference, inputs)
        for what, count in passes.items():
            run = self._timed(what, operation, inputs)
            seconds = median_seconds(run, self.device, self.options.repeats)
            rate = count * inputs[0].nbytes / seconds
            row = {"operation": name, "pass": what, "ms": 1e3 * seconds, "gb_per_s": rate / 1e9}
            self.rows.append(row | {"of_copy_rate": rate / self.copy_rate})

    @staticmethod
    def _timed(what: str, operation: Operation, inputs: list[Tensor]) -> Callable[[], object]:
        """A pass over an operation that computes nothing else."""
        if what == "forward":
            return lambda: operation(inputs)
        first, last = {"gradient of x": (0, 1), "gradient of parameters": (1, len(inputs))}.get(
            what, (0, len(inputs))
        )
        inputs = [each.detach().requires_grad_(first <= i < last) for i, each in enumerate(inputs)]
        out = operation(inputs)
        direction = torch.randn_like(out)
        return lambda: torch.autograd.grad(out, inputs[first:last], direction, retain_graph=True)

    def finish(self) -> None:
        """Print the table, and write the JSON file that was asked for."""
        options = self.options
        title = f"{options.model}, batch {options.batch}, {options.image_size} px, {options.precision}, "
        table = Table(
            title=f"{title}{options.device}; a copy moves {self.copy_rate / 1e9:.0f} GB/s",
            title_justify="left",
        )
        for heading in ("operation", "pass", "ms", "GB/s", "of copy rate"):
            table.add_column(heading, justify="left" if heading in ("operation", "pass") else "right")
        for row in self.rows:
            table.add_row(
                row["operation"],
                row["pass"],
                f"{row['ms']:.3f}",
                f"{row['gb_per_s']:.0f}",
                f"{row['of_copy_rate']:.0%}",
            )
        Console(width=140).print(table)
        if options.json:
            report = {
                "machine": describe(self.device),
                "options": vars(options),
                "rows": self.rows,
                "copy_gb_per_s": self.copy_rate / 1e9,
            }
            options.json.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def check(name: str, operation: Operation, reference: Operation, inputs: list[Tensor]) -> None:
    """Hold values and gradients against float64: see `Report.measure`."""
    dtype = inputs[0].dtype
    exact = _results(reference, [each.detach().double() for each in inputs], dtype)
    plain, own = _results(reference, inputs, dtype), _results(operation, inputs, dtype)
    for ours, theirs, truth in zip(own, plain, exact, strict=True):
        budget = 2 * (theirs - truth).norm() + 1e-6 * truth.norm()
        if not (ours - truth).norm() <= budget:
            raise SystemExit(
                f"{name}: off by {float((ours - truth).norm() / truth.norm()):.1e}; nothing is timed"
            )


def _results(operation: Operation, inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradients of its product with a fixed random direction of this type, in float64."""
    inputs = [each.detach().requires_grad_() for each in inputs]
    out = operation(inputs)
    generator = torch.Generator(out.device).manual_seed(0)
    direction = torch.randn(out.shape, device=out.device, generator=generator).to(dtype)
    gradients = torch.autograd.grad(out, inputs, direction.to(out.dtype))
    return [each.detach().double() for each in (out, *gradients)]
