"""Networks to train: heads by the names of classes, frozen stages, and timm's networks beside our own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fcmae import ConvNeXt, create_model
from fcmae.core.errors import UserError
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.network import build_network, create_timm
from fcmae.finetune.resolve import resolve
from fcmae.finetune.trained import open_network
from tests.finetune.small_run import NETWORK, run_small, small_config

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


def test_head_rows_follow_the_names_of_the_classes(tmp_path: Path) -> None:
    run_small(tmp_path / "first", epochs=1)
    trained = load_file(tmp_path / "first" / "model.safetensors")
    config = resolve(small_config(tmp_path, init=str(tmp_path / "first")))
    network = build_network(config, ["7", "new", "3"])
    weight = network.state_dict()["head.weight"]
    assert torch.equal(weight[[0, 2]], trained["head.weight"][[7, 3]])
    assert not any(torch.equal(weight[1], row) for row in trained["head.weight"])


def test_head_rows_follow_a_list_of_names(tmp_path: Path) -> None:
    nameless = tmp_path / "official.pth"
    options: dict[str, Any] = {
        "depths": (1, 1, 1, 1),
        "dims": (8, 12, 16, 24),
        "in_chans": 1,
        "stem_stride": 1,
    }
    trained = create_model("convnextv2_atto", num_classes=3, **options).state_dict()
    torch.save({"model": trained}, nameless)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    config = resolve(small_config(tmp_path, init=str(nameless), init_classes=str(tmp_path / "names.txt")))
    weight = build_network(config, ["cat", "dog", "ant"]).state_dict()["head.weight"]
    assert torch.equal(weight[[0, 2]], trained["head.weight"][[2, 0]])
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    with pytest.raises(UserError, match="names 2 classes, the head has 3"):
        build_network(config, ["cat", "dog"])


def test_frozen_stages_drop_no_paths(tmp_path: Path) -> None:
    network = replace(NETWORK, in_chans=1, freeze=2, drop_path_rate=0.9)
    model = build_network(resolve(small_config(tmp_path, network=network)), ["a", "b"])
    assert isinstance(model, ConvNeXt)
    drop_paths = [block.drop_path for stage in model.stages.children() for block in stage.children()]
    assert drop_paths[:2] == [0, 0]
    assert drop_paths[2:] == pytest.approx([0.6, 0.9])
