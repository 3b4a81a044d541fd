"""How near are the depthwise convolutions, forward and both gradients, to the memory's speed?

    python benchmarks/depthwise.py [--model NAME] [--batch N] [--image-size 224] [--mask-ratio 0.6]
        [--precision float32] [--device cpu] [--json FILE]

For each stage of a model: over visible tiles and over the dense map, in PyTorch (cuDNN on a GPU) and, on a
GPU, in Triton. Each is first held against float64. GB/s counts the bytes that must move, each input read and
each output written once.
"""

from kernels import Report, impls, random_tensors, read_options, stages, tiles_layout
from torch import Tensor

from fcmae.models.kernels.choice import Impl
from fcmae.models.kernels.depthwise import depthwise_map, depthwise_tiles

KERNEL = 7
PASSES = {"forward": 2, "gradient of x": 2, "gradient of parameters": 2}


def main() -> None:
    """Check, time, print."""
    options = read_options(__doc__ or "")
    report, layout = Report(options), tiles_layout(options)
    for number, p, channels in stages(options):
        weights = (channels, 1, KERNEL, KERNEL), (channels,)
        side = options.image_size * p // 32
        table = layout._halo_table(p, KERNEL)
        tiles = random_tensors(options, (*layout.visible.shape, p, p, channels), *weights)
        maps = random_tensors(options, (options.batch, side, side, channels), *weights)

        def over_tiles(inputs: list[Tensor], impl: Impl = "torch", table: Tensor = table) -> Tensor:
            return depthwise_tiles(*inputs, table, impl)

        def over_map(inputs: list[Tensor], impl: Impl = "torch") -> Tensor:
            return depthwise_map(*inputs, impl)

        for name, operation, inputs in (("tiles", over_tiles, tiles), ("map", over_map, maps)):
            for impl in impls(options):
                label = f"stage {number}, {name} of {inputs[0].shape[-2]}, {channels} channels, {impl}"
                report.measure(label, lambda x, f=operation, i=impl: f(x, i), operation, inputs, PASSES)
    report.finish()


if __name__ == "__main__":
    main()
