"""The types that a run computes in."""

import pytest
import torch

from fcmae.engine.precision import autocast, choose_precision, loss_scaler


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
