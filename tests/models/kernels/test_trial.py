"""Kernels that fail, or compute something else, are done without for the rest of the process."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.kernels import choice, trial
from models.kernels.choice import kernels, use_triton

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _trusted() -> Iterator[None]:
    choice._said.clear()
    with kernels("triton"):  # what `auto` means on a GPU, here interpreted
        yield
    choice.do_without(None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_kernels_pass(dtype: torch.dtype) -> None:
    assert trial.try_kernels(DEVICE, dtype)
    assert use_triton("auto", torch.zeros(1, device=DEVICE))


def test_a_kernel_that_raises_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(trial, "gelu_grn", fail)
    assert not trial.try_kernels(DEVICE, torch.float32)
    with caplog.at_level(logging.WARNING):
        assert not use_triton("auto", torch.zeros(1, device=DEVICE))
    assert "the kernel gelu_grn failed its trial (RuntimeError)" in caplog.text


def test_a_kernel_that_computes_something_else_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = trial.depthwise_map
    monkeypatch.setattr(
        trial,
        "depthwise_map",
        lambda x, weight, bias, impl: sound(x, weight, bias, "torch") * (1.01 if impl == "triton" else 1),
    )
    assert not trial.try_kernels(DEVICE, torch.float32)
    assert not use_triton("auto", torch.zeros(1, device=DEVICE))


def test_every_kind_of_tile_is_tried_with_the_parameters_autocast_passes() -> None:
    cases = [
        (name, *(tuple(each.shape) for each in inputs[:1]), *(each.dtype for each in inputs))
        for name, _, inputs in trial._cases(DEVICE, torch.bfloat16)
    ]
    types = (torch.bfloat16, torch.float32, torch.float32)
    maps = [(2, 8, 16, 40), (2, 4, 12, 40), (2, 7, 14, 40)]
    tiles = [(2, 8, 8, 40), (2, 4, 4, 64), (2, 2, 2, 64), (2, 1, 1, 64)]
    assert cases[1:] == [("depthwise_map", shape, *types) for shape in maps] + [
        ("depthwise_tiles", shape, *types) for shape in tiles
    ]
