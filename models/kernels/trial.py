"""A trial of the Triton kernels on the device at hand, before a run trusts them with its gradients.

A new GPU, driver or Triton may fail to compile a kernel or, worse, compile it wrongly. A run that takes days
finds out in its first seconds, and goes on with PyTorch's operations.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.kernels.choice import Impl, do_without, use_triton
from models.kernels.depthwise import depthwise_map, depthwise_tiles
from models.kernels.grn import gelu_grn

CHANNELS = 40  # no power of two
BUDGET = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def try_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Compare every kernel with PyTorch once, value and gradients; where one is off, do without all of them.

    Args:
        device: where the run computes
        dtype: type of its activations

    Returns:
        whether the kernels will be used
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    weight, bias, gamma = draw(CHANNELS, 1, 7, 7), draw(CHANNELS), draw(CHANNELS)
    alone = torch.full((2, 14, 14), 128, device=device)  # two tiles that see nothing but themselves
    alone[:, 3:11, 3:11] = torch.arange(128, device=device).view(2, 8, 8)
    cases: dict[str, tuple[Callable[[Impl], Tensor], list[Tensor]]] = {}
    tiles, image, positions = draw(2, 8, 8, CHANNELS), draw(2, 7, 14, CHANNELS), draw(2, 50, CHANNELS)
    cases["depthwise_tiles"] = (
        lambda impl: depthwise_tiles(tiles, weight, bias, alone, impl),
        [tiles, weight, bias],
    )
    cases["depthwise_map"] = (lambda impl: depthwise_map(image, weight, bias, impl), [image, weight, bias])
    cases["gelu_grn"] = (lambda impl: gelu_grn(positions, gamma, bias, impl=impl), [positions, gamma, bias])
    for name, (run, inputs) in cases.items():
        if not use_triton("auto", inputs[0]):
            return False
        try:
            error = _difference(run, inputs)
        except Exception as failure:  # whatever a compiler or driver raises
            do_without(f"the kernel {name} failed its trial ({type(failure).__name__})")
            return False
        if not error < BUDGET[dtype]:
            do_without(f"the kernel {name} failed its trial (off by {error:.1e})")
            return False
    return True


def _difference(run: Callable[[Impl], Tensor], inputs: list[Tensor]) -> float:
    """Largest difference of values and gradients between the two, relative to the largest of each."""
    results = []
    for impl in ("torch", "triton"):
        out = run(impl)
        slope = torch.linspace(-1, 1, out.numel(), device=out.device, dtype=torch.float32).view_as(out)
        grads = torch.autograd.grad((out.float() * slope).sum(), inputs)
        results.append([each.detach().double() for each in (out, *grads)])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*results, strict=True))
