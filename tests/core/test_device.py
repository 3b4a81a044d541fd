"""Names of devices, and the devices that they become."""

import pytest
import torch

from fcmae.core.device import pick_device
from fcmae.core.errors import UserError


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
