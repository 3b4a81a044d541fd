"""Settings that are left open are those of the weights to start from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.finetune.config import NetworkConfig
from fcmae.finetune.network import build_network
from fcmae.finetune.prepare import prepare
from fcmae.finetune.resolve import names_another, resolve
from fcmae.finetune.task import FinetuneTask
from fcmae.finetune.trained import save_network
from tests.finetune.small_run import NETWORK, small_config

CPU = torch.device("cpu")


def test_weights_of_colour_images_start_a_training_on_grey_ones(tmp_path: Path) -> None:
    colour = resolve(small_config(tmp_path, network=replace(NETWORK, in_chans=3)))
    trained = build_network(colour, ["a", "b"]).state_dict()
    save_network(trained, colour, ["a", "b"], {}, tmp_path / "colour.safetensors")
    options: dict[str, Any] = {"init": str(tmp_path / "colour.safetensors"), "model": None}
    inherited = resolve(small_config(tmp_path, **options, network=NetworkConfig()))
    assert inherited.images.mean == pytest.approx([0.485, 0.456, 0.406])
    config, run = prepare(small_config(tmp_path / "run", **options, network=NetworkConfig(in_chans=1)))
    task = FinetuneTask(config, run, CPU)
    assert [*task.mean, *task.std] == pytest.approx([0.31, 0.35], abs=0.02)
    stem = "downsample_layers.0.0.weight"
    assert torch.equal(task.model.state_dict()[stem], trained[stem].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("known", "another"), [("convnext_tiny", True), ("convnextv2_tiny", False), ("timm:resnet18", True)]
)
def test_where_depths_and_dims_say_the_size_weights_are_of_the_same_generation(
    tmp_path: Path, known: str, another: bool
) -> None:
    assert names_another(small_config(tmp_path, model="convnextv2_atto"), known) == another
