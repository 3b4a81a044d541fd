"""Kernels that fail, or compute something else, are done without for the rest of the process."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fcmae import create_model
from fcmae.models.kernels import choice, selftest
from fcmae.models.kernels.calls import Call
from fcmae.models.kernels.choice import Impl, kernels, use_triton
from fcmae.models.kernels.depthwise import depthwise_map, map_tile
from fcmae.models.kernels.selftest import check_calls, self_test

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _trusted() -> Iterator[None]:
    choice._said.clear()
    with kernels("triton"):  # what `auto` means on a GPU, here interpreted
        yield
    choice.do_without(None)


# Of 40 channels, one to a thread, and not a warp full; of 64, two.
TILES = [Call("depthwise_tiles", side, side, channels) for side, channels in ((8, 40), (2, 64), (1, 64))]
MAPS = [Call("depthwise_map", height, width, 40) for height, width in ((16, 16), (4, 12), (7, 7))]
CALLS = [Call("gelu_grn", 1, 1, 40), *MAPS, *TILES]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_kernels_pass(dtype: torch.dtype) -> None:
    assert check_calls(DEVICE, dtype, CALLS)
    assert use_triton("auto", torch.zeros(1, device=DEVICE))


def test_a_kernel_that_raises_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(selftest, "gelu_grn", fail)
    assert not check_calls(DEVICE, torch.float32, CALLS)
    with caplog.at_level(logging.WARNING):
        assert not use_triton("auto", torch.zeros(1, device=DEVICE))
    assert "the kernel gelu_grn failed its self-test (RuntimeError)" in caplog.text


def test_a_kernel_that_computes_something_else_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsound(x: Tensor, weight: Tensor, bias: Tensor, impl: Impl) -> Tensor:
        return depthwise_map(x, weight, bias, "torch") * (1.01 if impl == "triton" else 1)

    monkeypatch.setattr(selftest, "depthwise_map", unsound)
    assert check_calls(DEVICE, torch.float32, TILES[2:])
    assert not check_calls(DEVICE, torch.float32, MAPS[1:])
    assert not use_triton("auto", torch.zeros(1, device=DEVICE))


def test_maps_that_the_kernels_do_not_take_are_no_failure() -> None:
    assert check_calls(DEVICE, torch.float32, [Call("depthwise_map", 3, 3, 8)])
    assert use_triton("auto", torch.zeros(1, device=DEVICE))


@pytest.mark.parametrize("call", CALLS[1:])
def test_what_is_tried_is_the_kernel_of_the_call(call: Call) -> None:
    """A kernel is compiled for its tile's side, the width of its map, its channels and types."""
    _, (x, weight, bias) = selftest.prepare(call, DEVICE, torch.bfloat16)
    assert (x.shape[2], x.shape[3]) == (call.width, call.channels)
    if call.operation == "depthwise_map":
        assert map_tile(x.shape[1], x.shape[2]) == map_tile(call.height, call.width)
    assert (x.dtype, weight.dtype, bias.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_a_long_self_test_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(selftest, "SLOW", 0.0)
    assert check_calls(DEVICE, torch.float32, [CALLS[0], TILES[2]])
    assert caplog.messages == [
        "compiling kernels for this network and GPU: once on a machine, a minute or more"
    ]


def test_what_networks_call_is_tested_where_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[Call] = []

    def remember(device: torch.device, dtype: torch.dtype, calls: list[Call]) -> bool:
        tested.extend(calls)
        return True

    monkeypatch.setattr(selftest, "check_calls", remember)
    network = create_model("convnextv2_atto", depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), num_classes=2)
    examples = [(network, (torch.empty(1, 3, 64, 96, device="meta"),))] * 2
    assert self_test(DEVICE, torch.float32, examples)
    assert Call("depthwise_map", 16, 24, 4) in tested
    assert Call("gelu_grn", 1, 1, 40) in tested
    tested.clear()
    with kernels("torch"):
        assert not self_test(DEVICE, torch.float32, examples)
    assert not self_test(DEVICE, torch.float32, [])
    assert tested == []
