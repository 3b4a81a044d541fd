"""timm's network with the weights of ours, and how networks are compared."""

from typing import Any, cast

import timm
import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torch import Tensor, nn

from fcmae import ConvNeXt
from fcmae.models.block import Block
from fcmae.models.formats import to_timm

SMALL: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (6, 8, 12, 16)}


def timm_twin(ours: ConvNeXt) -> TimmConvNeXt:
    """timm's network with the weights of ours, of the same type."""
    blocks = [
        [each for each in stage.children() if isinstance(each, Block)] for stage in ours.stages.children()
    ]
    theirs = timm.create_model(
        "convnext_base" if blocks[0][0].grn is None else "convnextv2_base",
        in_chans=ours.in_chans,
        num_classes=ours.num_classes,
        depths=tuple(len(each) for each in blocks),
        dims=tuple(each[0].dwconv.out_channels for each in blocks),
    )
    theirs.load_state_dict(to_timm(ours.state_dict()))
    return cast(TimmConvNeXt, theirs.to(next(ours.parameters()).dtype).train(ours.training))


def names_of(ours: ConvNeXt) -> dict[str, str]:
    """timm's name of each of our parameters."""
    names = [name for name, _ in ours.named_parameters()]
    return dict(zip(names, to_timm(dict.fromkeys(names, torch.zeros(1, 1))), strict=True))


def draw(*shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal but for what two orders of summation leave in float64."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def gradients(network: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in network.parameters()]
    return [each for each in found if each is not None]


def backward(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The gradients of a step of one's own."""
    network.zero_grad()
    network(images).square().mean().backward()
    found = gradients(network)
    assert len(found) == len(list(network.parameters()))
    return found
