"""How fast is an encoder's forward and backward pass in each layout?

    python benchmarks/layouts.py [--model convnextv2_atto] [--batch 8] [--image-size 224] [--mask-ratio 0.6]
                                 [--dtype float32] [--device cpu] [--threads 2] [--repeats 20]

Checks that the layouts agree in value and gradient, then times them in turns and prints images/s, ratios with
their quartiles, and peak memory.
"""

import argparse
import importlib.util
from collections.abc import Callable

import torch
from machine import common_parser, set_up
from memory import peak_memory
from rich.console import Console
from rich.table import Table
from timing import Spread, ratios, time_side_by_side
from torch import Tensor

from fcmae import ConvNeXt, create_layout, create_model
from fcmae.models.geometry import count_visible, patch_grid
from fcmae.models.kernels.choice import kernels
from fcmae.models.mask import Mask
from fcmae.pretraining.masking import random_mask


def main() -> None:
    """Check, time, print."""
    options = read_options()
    device = set_up(options)
    network, images, mask = make_case(options)
    layouts = ["masked", "tiles"]
    if options.device == "cpu" and options.dtype == "float32" and importlib.util.find_spec("MinkowskiEngine"):
        layouts.append("minkowski")
    check_agreement(network, images, mask, layouts)
    ways = {name: one_pass(network, images, mask, name) for name in layouts}
    memory = {name: peak_memory(run, device) for name, run in ways.items()}
    seconds = time_side_by_side(ways, options.repeats, device)
    table = Table(
        title=f"{options.model}, batch {options.batch}, {options.image_size} px, mask {options.mask_ratio}, "
        f"{options.dtype}, {options.device}, {options.threads} threads: forward and backward",
        title_justify="left",
    )
    for heading in ("layout", "ms", "images/s", "tiles are faster by", "peak memory MB"):
        table.add_column(heading, justify="left" if heading == "layout" else "right")
    for name in layouts:
        each = Spread.of([1e3 * value for value in seconds[name]])
        table.add_row(
            name,
            str(each),
            f"{1e3 * options.batch / each.median:.0f}",
            str(ratios(seconds[name], seconds["tiles"])),
            f"{memory[name]:.0f}",
        )
    Console(width=120).print(table)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = common_parser(__doc__ or "", threads=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    if options.device == "cpu" and options.dtype != "float32":
        parser.error("--dtype: a CPU sums in half precision too, and the layouts would not agree: use a GPU")
    return options


def make_case(options: argparse.Namespace) -> tuple[ConvNeXt, Tensor, Mask]:
    """Make the network, with GRN that is not the identity, a batch of noise, and its mask."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    network = create_model(options.model, features_only=True)
    for name, parameter in network.named_parameters():
        if ".grn." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    images = torch.randn(options.batch, 3, options.image_size, options.image_size, generator=generator)
    grid = patch_grid(options.image_size, network.stride)
    visible = count_visible(grid[0] * grid[1], options.mask_ratio)
    mask = random_mask(options.batch, grid, visible, generator)
    return network.to(options.device, dtype), images.to(options.device, dtype), mask.to(options.device)


def one_pass(network: ConvNeXt, images: Tensor, mask: Mask, layout: str) -> Callable[[], None]:
    """Return a forward and backward pass; the layout's tables are made anew, as in training."""

    def run() -> None:
        forward_backward(network, images, mask, layout)
        network.zero_grad()

    return run


def forward_backward(network: ConvNeXt, images: Tensor, mask: Mask, layout: str) -> Tensor:
    """Return the encoder's map, and leave gradients in the network; masked runs in PyTorch everywhere."""
    with kernels("torch" if layout == "masked" else "auto"):
        encoded = network.forward_features(images, create_layout(layout, mask))
        encoded.square().sum().backward()
    return encoded


def check_agreement(network: ConvNeXt, images: Tensor, mask: Mask, layouts: list[str]) -> None:
    """Values and gradients against the masked layout, relative to their largest."""
    budget = 1e-4 if images.dtype == torch.float32 else 5e-2
    expected: list[Tensor] = []
    for layout in layouts:
        encoded = forward_backward(network, images, mask, layout)
        results = [encoded, *(p.grad for p in network.parameters() if p.grad is not None)]
        results = [each.detach().double().clone() for each in results]
        network.zero_grad()
        expected = expected or results
        error = max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(results, expected, strict=True)
        )
        print(f"{layout}: farthest from masked by {error:.1e} of the largest value or gradient")
        assert error < budget, f"{layout} does not agree with masked"


if __name__ == "__main__":
    main()
