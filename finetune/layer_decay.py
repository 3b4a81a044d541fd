"""Layer-wise learning-rate decay: the lower a layer, the smaller its steps.

The two ways of counting layers are those of the code published with ConvNeXt V2 (arXiv 2301.00808): "single"
counts block by block, as BEiT does (arXiv 2106.08254); "group" is ConvNeXt V1's (arXiv 2201.03545), made for
stages of 3 3 27 3 blocks: 12 groups of up to three consecutive blocks with a neighbouring downsampling.
"""

from typing import Any, Literal

from torch import nn

from fcmae.engine.optim import is_decayed
from fcmae.models.convnext import ConvNeXt

Groups = Literal["single", "group"]
NUM_GROUPS = 12


def layer_id(name: str, depths: tuple[int, ...], groups: Groups) -> int:
    """Return the number of a ConvNeXt parameter's layer: 0 .. n, and n + 1 for norm and head.

    A downsampling belongs to what follows it.

    Args:
        name: of the parameter
        depths: blocks of each stage
        groups: how layers are counted; n is the number of blocks for single and 12 for group
    """
    kind, *numbers = name.split(".")
    if kind not in ("downsample_layers", "stages"):
        return num_layers(depths, groups) + 1
    stage = int(numbers[0])
    block = int(numbers[1]) if kind == "stages" else 0
    if groups == "single":
        return sum(depths[:stage]) + block + 1
    if kind == "downsample_layers":
        return (0, 2, 3, NUM_GROUPS)[stage]
    return (1, 2, 3 + block // 3, NUM_GROUPS)[stage]


def num_layers(depths: tuple[int, ...], groups: Groups) -> int:
    """Return n, the layers below the head.

    Args:
        depths: blocks of each stage
        groups: how layers are counted
    """
    return sum(depths) if groups == "single" else NUM_GROUPS


def layer_decay_groups(
    model: nn.Module, weight_decay: float, layer_decay: float, groups: Groups
) -> list[dict[str, Any]]:
    """Return groups for AdamW of what is trained, with `lr_scale` layer_decay ** (n + 1 - layer).

    Networks of timm's count their layers in timm's way.

    Args:
        model: whose parameters are grouped
        weight_decay: of matrices; norms and biases have none
        layer_decay: factor on the learning rate from one layer to the layer below
        groups: how layers are counted
    """
    if not isinstance(model, ConvNeXt):
        from timm.optim import param_groups_layer_decay

        not_decayed: set[str] = getattr(model, "no_weight_decay", set)()  # tokens and positions
        found: list[dict[str, Any]] = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=not_decayed, layer_decay=layer_decay
        )
        return found
    depths = tuple(len(list(stage.children())) for stage in model.stages.children())
    last = num_layers(depths, groups) + 1
    collected: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_id(name, depths, groups), is_decayed(name, parameter)
        group: dict[str, Any] = {"params": [], "weight_decay": weight_decay if decayed else 0.0}
        group = collected.setdefault((layer, decayed), group)
        group["lr_scale"] = layer_decay ** (last - layer)
        group["params"].append(parameter)
    return list(collected.values())
