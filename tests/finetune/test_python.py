"""Fine-tuning as a call, from a pre-training's object and labels in memory or in a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from fcmae.core.errors import UserError
from fcmae.finetune import embed, evaluate, finetune, predict, probe
from fcmae.pretraining import pretrain

SIZE = {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8]}
LOOP = {"log_every": 1, "loggers": []}
OPTIONS: dict[str, Any] = {
    "image_size": 16,
    "batch_size": 8,
    "device": "cpu",
    "images": {"workers": 0},
    "loop": LOOP,
}


class Named(TensorDataset):
    """A data set that knows its classes and labels, as torchvision's do."""

    classes = ("dark", "light")

    @property
    def targets(self) -> list[int]:
        return [int(label) for label in self.tensors[1]]


@pytest.mark.parametrize("kind", ["pair", "dataset", "named"])
def test_fine_tuning_on_data_of_code(kind: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2
    images = (
        labels[:, None, None, None] * 120 + torch.randint(0, 99, (40, 3, 20, 20), generator=generator)
    ).to(torch.uint8)
    encoder = pretrain(
        images, epochs=1, out=tmp_path / "encoder", network=SIZE, decoder={"dim": 8}, **OPTIONS
    )
    data = {
        "pair": (images, labels.numpy()),
        "dataset": TensorDataset(images, labels),
        "named": Named(images, labels),
    }[kind]
    run = finetune(data, init=encoder, epochs=3, out=tmp_path / "classifier", **OPTIONS)
    assert run.epochs["epoch"].tolist() == [1, 2, 3]
    assert np.nanmax(run.epochs["top1"]) > 40
    network = run.classifier()
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 2)
    names = ["dark", "light"] if kind == "named" else ["0", "1"]
    assert run.class_names == names


def test_a_run_is_measured_and_used_by_calls(tmp_path: Path) -> None:
    run = finetune("digits", out=tmp_path / "run", epochs=1, network=SIZE, **{**OPTIONS, "batch_size": 512})
    few: dict[str, Any] = {"batch_size": 256, "workers": 0, "device": "cpu"}
    assert evaluate(run, **few)["images"] == 359
    assert 0 <= probe(str(run.path), "digits", limit=200, **few)["knn"] <= 100
    assert predict(run, "digits", tmp_path / "table.csv", **few) == (1797, 0)
    assert embed(run, "digits", str(tmp_path / "features.npz"), **few) == (1797, 0)


def test_a_wrong_option_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="epochs"):
        finetune("digits", out=tmp_path / "run", epoch=3)
