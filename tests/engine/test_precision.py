"""Names of devices, and the types that autocast computes in."""

import pytest
import torch

from fcmae.core.device import pick_device
from fcmae.core.errors import UserError
from fcmae.engine.precision import autocast, choose_precision, loss_scaler


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_absent_cuda_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=rf"{name}: no CUDA device.*--device cpu"):
        pick_device(name)


def test_a_named_gpu_becomes_the_current_one_and_one_beyond_the_last_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert [pick_device("cuda:1"), pick_device("cuda")] == [torch.device("cuda:1"), torch.device("cuda")]
    assert chosen == [torch.device("cuda:1")]
    with pytest.raises(UserError, match=r"cuda:0 to cuda:1"):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cuda:x"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown device"):
        pick_device(name)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_computes_in_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    cpu = torch.device("cpu")
    with autocast(precision, cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert loss_scaler(precision, cpu).is_enabled() == (precision == "fp16")


def test_auto_is_bf16_only_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("auto", torch.device("cpu")) == "float32"
    for capability, precision in (((7, 5), "float32"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert choose_precision("auto", torch.device("cuda")) == precision
    assert choose_precision("fp16", torch.device("cuda")) == "fp16"
