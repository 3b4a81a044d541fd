"""A small run and a folder of images that several tests use."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fcmae.data.sources.digits import load_digits_images
from fcmae.finetune.config import AugmentConfig
from tests.finetune.small_run import run_small, small_config


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on some of the digits, good enough to tell them apart."""
    out = tmp_path_factory.mktemp("trained") / "run"
    plain = AugmentConfig(auto_augment=None, erase=0.0)
    optim = replace(small_config(out).optim, lr=6e-3)
    run_small(out, train_fraction=0.3, epochs=5, augment=plain, optim=optim, layer_decay=1.0, ema_decay=None)
    return out


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits 0 to 29 as files in class folders, and one broken file."""
    root = tmp_path_factory.mktemp("data") / "digits"
    images, labels = load_digits_images(16)
    for i in range(30):
        path = root / str(int(labels[i])) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i, 0].numpy()).save(path)
    (root / "3" / "torn.png").write_bytes((root / "3" / "3.png").read_bytes()[:60])
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
