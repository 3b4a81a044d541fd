"""How near are the depthwise convolutions, forward and both gradients, to the memory's speed?

    python benchmarks/depthwise.py [--model NAME] [--batch N] [--image-size 224] [--mask-ratio 0.6]
        [--precision float32] [--device cpu] [--json FILE]

For each stage of a model: over visible tiles and over the dense map, in PyTorch (cuDNN on a GPU) and, on a
GPU, in Triton. Each is first held against float64. GB/s counts the bytes that must move, each input read and
each output written once.
"""

from collections.abc import Callable
from functools import partial

from kernels import Operation, Report, impls, random_tensors, read_options, stages, tiles_layout
from torch import Tensor

from fcmae.models.kernels.choice import Impl
from fcmae.models.kernels.depthwise import depthwise_map, depthwise_tiles

KERNEL = 7
PASSES = {"forward": 2, "gradient of x": 2, "gradient of parameters": 2}


def over_tiles(table: Tensor, impl: Impl) -> Operation:
    """Return the convolution of visible tiles, in one implementation."""

    def operation(inputs: list[Tensor]) -> Tensor:
        x, weight, bias = inputs
        return depthwise_tiles(x, weight, bias, table, impl)

    return operation


def over_map(impl: Impl) -> Operation:
    """Return the convolution of the dense map, in one implementation."""

    def operation(inputs: list[Tensor]) -> Tensor:
        x, weight, bias = inputs
        return depthwise_map(x, weight, bias, impl)

    return operation


def main() -> None:
    """Check, time, print."""
    options = read_options(__doc__ or "")
    report, layout = Report(options), tiles_layout(options)
    for number, p, channels in stages(options):
        weights = (channels, 1, KERNEL, KERNEL), (channels,)
        side = options.image_size * p // 32
        over: dict[str, Callable[[Impl], Operation]]
        over = {"tiles": partial(over_tiles, layout._halo_table(p, KERNEL)), "map": over_map}
        of = {
            "tiles": random_tensors(options, (*layout.visible.shape, p, p, channels), *weights),
            "map": random_tensors(options, (options.batch, side, side, channels), *weights),
        }
        for name, inputs in of.items():
            for impl in impls(options):
                label = f"stage {number}, {name} of {inputs[0].shape[-2]}, {channels} channels, {impl}"
                report.measure(label, over[name](impl), over[name]("torch"), inputs, PASSES)
    report.finish()


if __name__ == "__main__":
    main()
