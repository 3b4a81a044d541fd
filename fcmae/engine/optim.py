"""Which parameters are decayed: the parameter groups that AdamW is given."""

from typing import Any

from torch import nn

NOT_DECAYED = ("bias", "gamma", "beta", "mask_token")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to weights of convolutions and linear layers only.

    Norms and biases are told by having one dimension. GRN's gamma and beta, shaped (1, 1, 1, C), and the mask
    token slip through that rule and are told by name.
    """
    return parameter.ndim > 1 and not name.endswith(NOT_DECAYED)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for AdamW, decayed and not, of the parameters that are trained."""
    named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    return [
        {"params": [each for name, each in named if is_decayed(name, each)], "weight_decay": weight_decay},
        {"params": [each for name, each in named if not is_decayed(name, each)], "weight_decay": 0.0},
    ]
