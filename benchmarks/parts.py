"""What the parts of a pre-training step cost, each timed alone, forward and backward, in eager mode.

A forward pass records what goes into every part; the parts are then run one after another on that.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from machine import median_seconds
from torch import Tensor, nn

from fcmae.models.block import GRN, LayerNorm, Linear
from fcmae.models.layouts.base import Layout
from fcmae.models.mask import Mask
from fcmae.pretraining.model import FCMAE

Recorded = tuple[Callable[[Tensor], Tensor], Tensor]
MODULES = {LayerNorm: "norms", Linear: "pointwise", GRN: "GELU and GRN"}


def time_parts(
    model: FCMAE, images: Tensor, mask: Mask, optimizer: torch.optim.Optimizer, repeats: int
) -> dict[str, float]:
    """Seconds of each part of one step; call it under the step's autocast.

    Args:
        model: on the device of images (B, C, H, W) and mask
        optimizer: of the model; the gradients are there
    """
    hidden = mask.hidden
    calls, encoded = _record(model, images, model.layout(mask))
    prediction = model.decode(encoded, hidden)
    calls["decoder"] = [(lambda x: model.decode(x, hidden), encoded)]
    calls["loss"] = [(lambda x: model.loss(images, x, hidden), prediction)]
    ways = {name: _replay(each) for name, each in calls.items()}
    ways["optimiser"] = optimizer.step
    return {name: median_seconds(run, images.device, repeats) for name, run in ways.items()}


def _record(model: FCMAE, images: Tensor, layout: Layout) -> tuple[dict[str, list[Recorded]], Tensor]:
    """The encoder's calls by part, and its output."""
    calls: dict[str, list[Recorded]] = defaultdict(list)

    def watch_convolution(method: str) -> None:
        original = getattr(layout, method)

        def recorded(x: Tensor, conv: nn.Conv2d) -> Tensor:
            part = "stem" if conv.in_channels == model.in_chans else method
            calls[part].append((lambda x: original(x, conv), x))
            result: Tensor = original(x, conv)
            return result

        setattr(layout, method, recorded)

    def remember(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[MODULES[type(module)]].append((lambda x: module.forward(x, *args[1:]), args[0]))

    watch_convolution("downsample")
    watch_convolution("depthwise")
    hooks = [
        module.register_forward_pre_hook(remember)
        for module in model.encoder.modules()
        if type(module) in MODULES
    ]
    encoded = model.encoder.forward_features(images, layout)
    for hook in hooks:
        hook.remove()
    return dict(calls), encoded


def _replay(calls: list[Recorded]) -> Callable[[], None]:
    """Run the calls of a part on what they were given, forward and backward."""

    def run() -> None:
        for call, x in calls:
            out = call(x.detach().requires_grad_())
            out.backward(torch.ones_like(out))

    return run
