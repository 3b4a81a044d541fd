"""Compile the depthwise kernels for a Hopper GPU, whether one is there or not; print multiply-adds by kernel.

Printed as well: the numbers that may change without another compilation.
Run as a program: once Triton is imported to interpret kernels, the same process cannot compile them.
"""

import json
import re
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fcmae.models.kernels import depthwise_triton

TYPES = {"x": "*bf16", "out": "*bf16", "grad": "*bf16", "taps": "*fp32"}
TYPES |= {"partial": "*fp32", "table": "*i64"}


def multiply_adds(kernel: Any, side: int, channels: int) -> int:
    """Fused multiply-adds in the compiled kernel, of one thread for one block."""
    constants = {"PITCH": side, "C": channels, "P": side, "BLOCK": side, "K": 7, "LANES": 32}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(ASTSource(kernel, signature, values), target=GPUTarget("cuda", 90, 32))
    return len(re.findall(r"fma\.rn\.f32", compiled.asm["ptx"]))


if __name__ == "__main__":
    kernels = (depthwise_triton._convolve, depthwise_triton._weight_gradient)
    varying = [sorted(each.name for each in kernel.params if each.do_not_specialize) for kernel in kernels]
    print(
        json.dumps(
            {kernel.__name__: multiply_adds(kernel, 2, 40) for kernel in kernels} | {"varying": varying}
        )
    )
