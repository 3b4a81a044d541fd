"""Working directories for tests of the commands."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fcmae import create_model
from fcmae.core.settings import read_settings
from fcmae.engine.loggers import JsonLines
from fcmae.models.card import Card
from fcmae.models.storage import save_weights
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.prepare import prepare
from tests.launch.toys import make_classes, make_pictures

PRETRAINING = {
    "data": "images",
    "out": "run",
    "image_size": 16,
    "epochs": 2,
    "batch_size": 4,
    "network": {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [2, 3, 4, 5]},
    "decoder": {"dim": 8},
    "images": {"workers": 0},
}


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures(directory: Path) -> Path:
    """The working directory: pictures in images/, and a recipe for them, tiny.yaml, with the run in run/."""
    make_pictures(directory / "images", 8)
    (directory / "tiny.yaml").write_text(yaml.safe_dump(PRETRAINING))
    return directory


@pytest.fixture
def started_run(pictures: Path) -> Path:
    """The folder of a pre-training that has taken its first step."""
    run = prepare(read_settings(PretrainConfig, pictures / "tiny.yaml"))
    JsonLines(run).log({"step": 1, "loss": 1.0})
    return run.path


@pytest.fixture
def trained(directory: Path) -> Path:
    """The working directory: two classes in data/, and a classifier of other ones, weights.safetensors."""
    make_classes(Path("data"), {"cat": 6, "dog": 6})
    model = create_model("convnextv2_atto", num_classes=2, depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    options = {"in_chans": 3, "stem_stride": 4, "depths": (1, 1, 1, 1), "dims": (4, 4, 4, 4)}
    known: dict[str, Any] = {"image_size": (32, 32), "crop_pct": 1.0, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    card = Card(model="convnextv2_atto", options=options, class_names=("cat", "cow"), **known)
    save_weights(Path("weights.safetensors"), model.state_dict(), card)
    return directory
