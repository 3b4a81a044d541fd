"""The optimiser: which parameters are decayed, AdamW over them, and one update of them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fcmae.engine.config import OptimConfig

NOT_DECAYED = ("bias", "gamma", "beta", "mask_token")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Return whether weight decay applies: to weights of convolutions and linear layers only.

    Norms and biases are told by having one dimension. GRN's gamma and beta, shaped (1, 1, 1, C), and the mask
    token slip through that rule and are told by name.
    """
    return parameter.ndim > 1 and not name.endswith(NOT_DECAYED)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups for AdamW, decayed and not, of the parameters that are trained."""
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    return [
        {"params": [each for name, each in named if is_decayed(name, each)], "weight_decay": weight_decay},
        {"params": [each for name, each in named if not is_decayed(name, each)], "weight_decay": 0.0},
    ]


def create_optimizer(
    groups: list[dict[str, Any]], config: OptimConfig, device: torch.device
) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) over parameter groups; each update sets the learning rate.

    Args:
        groups: a task's, of the parameters as they are trained: sharded before
        config: the betas
        device: where the parameters are
    """
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=device.type != "mps")


def update(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    step: int,
    lr: float,
    clip_grad: float | None,
) -> Tensor:
    """Clip the gradients, apply them and forget them. Nothing here waits for the device.

    Args:
        optimizer: of parameters with gradients; a group's `lr_scale`, if it has one, multiplies the rate,
            which is 0 before its `first_step`
        scaler: of the losses; skips an update whose gradients overflowed in fp16
        step: number of this update, from 0
        lr: its learning rate
        clip_grad: largest L2 norm over all parameters, if they are clipped

    Returns:
        L2 norm of all gradients together, before clipping: ()
    """
    scaler.unscale_(optimizer)
    groups = optimizer.param_groups
    parameters = [each for group in groups for each in group["params"] if each.grad is not None]
    norm = nn.utils.get_total_norm([each.grad for each in parameters])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if clip_grad is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_grad, norm)
    for group in groups:
        learns = step >= group.get("first_step", 0)
        group["lr"] = lr * group.get("lr_scale", 1.0) if learns else 0.0
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return norm
