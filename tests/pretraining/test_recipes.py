"""The recipes parse, are complete, and say what ConvNeXt V2's table of pre-training settings says."""

from pathlib import Path

import pytest

import fcmae.pretraining
from fcmae import list_models
from fcmae.core.settings import read_settings
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.prepare import check

RECIPES = sorted((Path(fcmae.pretraining.__file__).parent / "recipes").glob("*.yaml"))
PUBLISHED = [path for path in RECIPES if path.stem.startswith("convnextv2_")]
TOP_1 = {
    "atto": 76.7, "femto": 78.5, "pico": 80.3, "nano": 81.9, "tiny": 83.0, "base": 84.9, "large": 85.8,
    "huge": 86.3,
}  # fmt: skip


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_every_recipe_can_be_run(path: Path) -> None:
    check(read_settings(PretrainConfig, path))


def test_there_is_a_published_recipe_for_every_size() -> None:
    assert [path.stem for path in PUBLISHED] == sorted(
        name for name in list_models() if name.startswith("convnextv2_")
    )


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_published_settings(path: Path) -> None:
    """ConvNeXt V2, arXiv 2301.00808, appendix A."""
    config = read_settings(PretrainConfig, path)
    assert config.model == path.stem
    assert (config.image_size, config.batch_size, config.mask_ratio) == (224, 4096, 0.6)
    assert config.epochs in (800, 1600)
    assert config.norm_pix_loss
    assert (config.decoder.depth, config.decoder.dim) == (1, 512)
    optim = config.optim
    assert (optim.base_lr, optim.lr, optim.min_lr) == (1.5e-4, None, 0.0)
    assert (optim.weight_decay, tuple(optim.betas)) == (0.05, (0.9, 0.95))
    assert (optim.warmup_epochs, optim.schedule) == (40, "cosine")
    assert (tuple(config.images.crop_scale), config.images.hflip) == ((0.2, 1.0), True)


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_a_published_recipe_states_its_claim(path: Path) -> None:
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    facts = {line.split()[1]: line for line in header[1:]}
    assert "arXiv 2301.00808" in facts["Source"]
    assert f"{TOP_1[path.stem.removeprefix('convnextv2_')]} %" in facts["Claim"]
    assert "Hardware" in facts
    assert f"fcmae pretrain --config {path.stem} " in facts["Command"]
