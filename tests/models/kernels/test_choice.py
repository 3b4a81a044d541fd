"""Which implementation runs, and what is said when it is not the fast one."""

import importlib.metadata
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fcmae.models.kernels import choice
from fcmae.models.kernels.choice import kernels, use_triton
from fcmae.models.kernels.depthwise import depthwise_map
from fcmae.models.kernels.grn import gelu_grn


class OnGPU:
    """What the rule looks at of a tensor, on a GPU that need not be there."""

    device = torch.device("cuda", 0)

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype


@pytest.fixture(autouse=True)
def _ampere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU with bfloat16, a recent Triton, and nothing said yet."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test GPU")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.6.0")
    choice._said.clear()
    yield
    choice._said.clear()


def absent(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_auto_is_triton_on_a_gpu_and_pytorch_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    assert use_triton("auto", OnGPU(torch.bfloat16))  # type: ignore[arg-type]
    assert not use_triton("auto", torch.ones(1))
    assert not use_triton("torch", OnGPU())  # type: ignore[arg-type]
    assert not caplog.records


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        ("absent", "Triton is not installed"),
        ("old", "Triton 3.1 is older than 3.4"),
        ("gpu", "Test GPU has no bfloat16"),
        ("maker", "NVIDIA"),
        ("dtype", "torch.float64"),
        ("shape", "a shape of its own"),
    ],
)
def test_auto_falls_back_with_one_line(
    obstacle: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = OnGPU(torch.float64 if obstacle == "dtype" else torch.bfloat16)
    if obstacle == "absent":
        monkeypatch.setattr(importlib.metadata, "version", absent)
    if obstacle == "old":
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.1.0")
    if obstacle == "gpu":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    if obstacle == "maker":
        monkeypatch.setattr(torch.version, "cuda", None)
    refusal = (lambda: "a shape of its own") if obstacle == "shape" else None
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not use_triton("auto", x, refusal)  # type: ignore[arg-type]
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "\n" not in record.getMessage()
    with pytest.raises(ValueError, match=said):
        use_triton("triton", x, refusal)  # type: ignore[arg-type]


def test_insisting_without_triton_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ValueError, match="pip install triton"):
        gelu_grn(torch.randn(1, 2, 3), torch.ones(3), torch.ones(3), impl="triton")


def test_a_map_that_does_not_divide_is_refused_by_the_kernel_and_taken_by_pytorch() -> None:
    x, weight = torch.randn(1, 11, 13, 2), torch.randn(2, 1, 7, 7)
    with pytest.raises(ValueError, match="11 x 13"):
        depthwise_map(x, weight, None, impl="triton")
    assert depthwise_map(x, weight, None).shape == x.shape


def test_a_preference_holds_within_its_context_and_yields_to_an_argument() -> None:
    gpu: Tensor = OnGPU()  # type: ignore[assignment]
    with kernels("torch"):
        assert not use_triton("auto", gpu)
        assert use_triton("triton", gpu)
    with kernels("triton"):
        assert not use_triton("auto", gpu, lambda: "a shape of its own")
    assert use_triton("auto", gpu)
