"""Which parameters are decayed, and what one update of them does."""

from typing import Any

import pytest
import torch
from torch import nn

from fcmae.engine.config import OptimConfig
from fcmae.engine.optim import create_optimizer, parameter_groups, update
from fcmae.models.convnext import create_model

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4), "num_classes": 2}


def test_weights_alone_are_decayed_and_what_is_frozen_is_left_out() -> None:
    model = create_model("convnextv2_atto", **OPTIONS)
    model.head.bias.requires_grad_(False)
    names = {id(each): name for name, each in model.named_parameters()}
    decayed, others = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    found = {names[id(each)] for each in decayed["params"]}
    layers = [name for name, each in model.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert {name for name in found if "grn" in name or name.endswith("bias")} == set()
    assert {f"{name}.weight" for name in layers} <= found
    assert found | {names[id(each)] for each in others["params"]} == set(names.values()) - {"head.bias"}


def update_once(clip_grad: float | None) -> tuple[list[nn.Parameter], torch.optim.Optimizer, float]:
    """Return parameters after an update whose gradients are 3 and 4, the optimiser, and the norm."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    groups: list[dict[str, Any]] = [
        {"params": parameters[:1], "weight_decay": 0.0, "lr_scale": 0.5},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    optimizer = create_optimizer(groups, OptimConfig(betas=(0.9, 0.95)), CPU)
    for parameter, gradient in zip(parameters, (3.0, 4.0), strict=False):  # the last one has none
        parameter.grad = torch.tensor([gradient])
    norm = update(optimizer, torch.amp.GradScaler("cpu", enabled=False), step=0, lr=0.25, clip_grad=clip_grad)
    return parameters, optimizer, norm.item()


@pytest.mark.parametrize(("clip_grad", "scale"), [(None, 1.0), (1.0, 0.2), (10.0, 1.0)])
def test_gradients_are_clipped_together_and_their_norm_is_that_before(
    clip_grad: float | None, scale: float
) -> None:
    parameters, optimizer, norm = update_once(clip_grad)
    assert norm == pytest.approx(5.0)
    moments = [optimizer.state[each]["exp_avg"].item() for each in parameters[:2]]
    assert moments == pytest.approx([0.1 * 3 * scale, 0.1 * 4 * scale])
    assert all(each.grad is None for each in parameters)


def test_each_group_steps_at_its_own_scale_of_the_rate() -> None:
    parameters, _, _ = update_once(None)
    assert [each.item() for each in parameters] == pytest.approx([1 - 0.125, 1 - 0.25, 1.0])


def test_a_step_that_overflowed_is_skipped() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = create_optimizer([{"params": [parameter]}], OptimConfig(), CPU)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    scaler.scale(parameter.sum()).backward()
    assert parameter.grad is not None
    parameter.grad.fill_(float("inf"))
    before = scaler.get_scale()
    assert update(optimizer, scaler, step=0, lr=0.25, clip_grad=1.0).isinf()
    assert parameter.item() == 1.0
    assert scaler.get_scale() < before


def test_a_group_learns_from_its_first_step_on() -> None:
    early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
    groups: list[dict[str, Any]] = [
        {"params": [early]},
        {"params": [late], "first_step": 1, "lr_scale": 0.5, "weight_decay": 0.1},
    ]
    optimizer = create_optimizer(groups, OptimConfig(), CPU)
    for step in range(2):
        for parameter in (early, late):
            parameter.grad = torch.ones(2)
        update(optimizer, torch.amp.GradScaler("cpu", enabled=False), step=step, lr=0.25, clip_grad=None)
        assert torch.equal(late, torch.ones(2)) == (step == 0)
    assert not torch.equal(early, torch.ones(2))
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125]
