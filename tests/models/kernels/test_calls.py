"""What a module asks of the kernels is found out without computing anything."""

import torch

from fcmae import create_model
from fcmae.models.kernels import calls
from fcmae.models.kernels.calls import Call, record_calls
from fcmae.models.kernels.depthwise import depthwise_map

SMALL = {"depths": (1, 2, 1, 1), "dims": (4, 6, 8, 10)}


def test_a_network_on_maps() -> None:
    network = create_model("convnextv2_atto", num_classes=3, **SMALL)
    maps = [(16, 24, 4), (8, 12, 6), (4, 6, 8), (2, 3, 10)]
    expected = {Call("depthwise_map", *each) for each in maps} | {
        Call("gelu_grn", 1, 1, 4 * dim) for *_, dim in maps
    }
    found = record_calls(network, torch.empty(1, 3, 64, 96, device="meta"))
    assert set(found) == expected
    assert len(found) == len(expected)


def test_v1_has_no_grn() -> None:
    network = create_model("convnext_tiny", features_only=True, **SMALL)
    found = record_calls(network, torch.empty(2, 3, 32, 32, device="meta"))
    assert {call.operation for call in found} == {"depthwise_map"}


def test_nothing_is_noted_but_while_calls_are_recorded() -> None:
    weight = torch.randn(2, 1, 3, 3)
    depthwise_map(torch.randn(1, 4, 4, 2), weight, None)
    assert calls._noted is None

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError

    try:
        record_calls(Module(), weight)
    except RuntimeError:
        assert calls._noted is None
