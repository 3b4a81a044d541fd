"""Networks of timm beside our own: trained, opened again, and refused what they cannot do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fcmae.core.errors import UserError
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.network import build_network, create_timm, open_network
from fcmae.finetune.resolve import resolve
from tests.finetune.small_run import NETWORK, run_small

CPU = torch.device("cpu")


def test_a_model_of_timm_trains_and_can_be_used(tmp_path: Path) -> None:
    network = replace(NETWORK, in_chans=1, stem_stride=None, depths=None, dims=None)
    run_small(tmp_path / "run", model="timm:resnet10t", image_size=32, network=network, epochs=1)
    opened = open_network(tmp_path / "run", CPU)
    assert opened.model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    features = open_network(tmp_path / "run", CPU, head=False)
    assert features.model(torch.zeros(2, 1, 32, 32)).shape == (2, 512)


def test_a_model_of_timm_without_drop_path_does_without(caplog: pytest.LogCaptureFixture) -> None:
    create_timm("timm:densenet121", 2, (32, 32), drop_path_rate=0.0)
    assert not caplog.messages
    create_timm("timm:densenet121", 2, (32, 32), drop_path_rate=0.1)
    assert caplog.messages == ["model timm:densenet121 has no drop path, and is trained without"]


def test_a_model_of_timm_for_one_size_is_refused_another() -> None:
    config = resolve(FinetuneConfig(model="timm:vit_tiny_patch16_224", image_size=96))
    with pytest.raises(UserError, match=r"timm:vit_tiny_patch16_224 does not take images of 96 x 96 \(.*224"):
        build_network(config, ["a", "b"])
