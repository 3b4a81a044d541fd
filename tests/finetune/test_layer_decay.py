"""Layer decay: every parameter has the layer, and the rate, of the published code."""

from typing import Any

import pytest
import torch

from fcmae import create_model
from fcmae.finetune.layer_decay import layer_decay_groups, layer_id, num_layers

BASE = (3, 3, 27, 3)
# of the base size: what belongs to each of the 12 groups, stem first and head last
GROUPS = [
    ["downsample_layers.0"],
    ["stages.0.0", "stages.0.1", "stages.0.2"],
    ["downsample_layers.1", "stages.1.0", "stages.1.1", "stages.1.2"],
    ["downsample_layers.2", "stages.2.0", "stages.2.1", "stages.2.2"],
    *([f"stages.2.{3 * i + j}" for j in range(3)] for i in range(1, 9)),
    ["downsample_layers.3", "stages.3.0", "stages.3.1", "stages.3.2"],
    ["norm", "head"],
]


def test_groups_of_the_base_size() -> None:
    assert len(GROUPS) == num_layers(BASE, "group") + 2
    for number, modules in enumerate(GROUPS):
        for module in modules:
            assert layer_id(f"{module}.0.weight", BASE, "group") == number, module


def test_single_counts_every_block() -> None:
    depths = (2, 2, 6, 2)
    blocks = [f"stages.{i}.{j}" for i, depth in enumerate(depths) for j in range(depth)]
    ids = [layer_id(f"{block}.dwconv.weight", depths, "single") for block in blocks]
    assert ids == list(range(1, 13))
    assert [layer_id(f"downsample_layers.{i}.0.weight", depths, "single") for i in range(4)] == [1, 3, 5, 11]
    assert layer_id("head.weight", depths, "single") == layer_id("norm.bias", depths, "single") == 13


@pytest.mark.parametrize("groups", ["single", "group"])
def test_rates_and_weight_decay_of_a_network(groups: str) -> None:
    model = create_model("convnextv2_atto", num_classes=3, dims=(4, 4, 4, 4))
    model.stages[0].requires_grad_(False)
    found = layer_decay_groups(model, 0.3, 0.9, groups)  # type: ignore[arg-type]
    names = {parameter: name for name, parameter in model.named_parameters()}
    seen = {}
    for group in found:
        for parameter in group["params"]:
            assert parameter not in seen
            seen[parameter] = group
            name = names[parameter]
            plain = name.endswith("weight") and parameter.ndim > 1
            assert group["weight_decay"] == (0.3 if plain else 0.0), name
            last = num_layers((2, 2, 6, 2), groups) + 1  # type: ignore[arg-type]
            layer = layer_id(name, (2, 2, 6, 2), groups)  # type: ignore[arg-type]
            assert group["lr_scale"] == pytest.approx(0.9 ** (last - layer)), name
    assert {names[each] for each in seen} == {name for name in names.values() if "stages.0." not in name}


def test_positions_and_tokens_of_a_network_of_timm_are_not_decayed() -> None:
    import timm

    size: dict[str, Any] = {"depth": 1, "embed_dim": 16, "num_heads": 2, "img_size": 32}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **size)
    groups = layer_decay_groups(model, 0.1, 0.5, "single")
    decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays[model.pos_embed] == decays[model.cls_token] == 0
    assert decays[model.get_parameter("head.weight")] == 0.1


def test_a_network_of_timm_is_counted_in_timm_s_way() -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=3)
    groups = layer_decay_groups(model, 0.1, 0.5, "single")
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    scales = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    first, last = next(model.parameters()), model.get_parameter("fc.weight")
    assert scales[first] < scales[last] == 1
    assert torch.is_tensor(first)
