"""The published recipes hold the published values, typed here once more."""

from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest

from fcmae.core.recipes import find_recipe
from fcmae.core.settings import read_settings
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.prepare import check
from fcmae.finetune.resolve import resolve

RECIPES = Path(__file__).parents[2] / "finetune" / "recipes"
HEADER = (
    "base_lr weight_decay layer_decay groups batch warmup epochs smoothing mixup cutmix drop_path ema size"
)
# Base, large and huge on ImageNet-1K: a tenth of the printed base_lr, as in the authors' public command.
V2_TABLE = """
convnextv2_atto_in1k                2e-4  0.3  0.9 single 1024  0 600 0.2 0.0 0.0 0.1 0.9999 224
convnextv2_femto_in1k               2e-4 0.05  0.9 single 1024  0 600 0.2 0.3 0.3 0.0 0.9999 224
convnextv2_pico_in1k                2e-4  0.3  0.9 single 1024  0 600 0.2 0.3 0.3 0.0 0.9999 224
convnextv2_nano_in1k                2e-4  0.3  0.9 single 1024  0 600 0.2 0.5 0.5 0.1 0.9999 224
convnextv2_tiny_in1k                8e-4 0.05  0.9 single 1024 40 300 0.1 0.8 1.0 0.2 0.9999 224
convnextv2_base_in1k             6.25e-4 0.05  0.6  group 1024 20 100 0.1 0.8 1.0 0.1 0.9999 224
convnextv2_large_in1k            6.25e-4 0.05  0.6  group 1024 20 100 0.1 0.8 1.0 0.2 0.9999 224
convnextv2_huge_in1k             1.25e-4 0.05 0.75  group 1024 10  50 0.1 0.8 1.0 0.3 0.9999 224
convnextv2_nano_in22k             2.5e-4 0.05  0.9 single 4096  5  90 0.1 0.8 1.0 0.0   None 224
convnextv2_tiny_in22k             2.5e-4 0.05  0.9 single 4096  5  90 0.1 0.8 1.0 0.0   None 224
convnextv2_base_in22k             2.5e-4 0.05  0.8  group 4096  5  90 0.1 0.8 1.0 0.1   None 224
convnextv2_large_in22k            2.5e-4 0.05  0.8  group 4096  5  90 0.1 0.8 1.0 0.1   None 224
convnextv2_huge_in22k             2.5e-4 0.05  0.8  group 4096  5  90 0.1 0.8 1.0 0.3   None 224
convnextv2_nano_in22k_in1k        2.5e-5 1e-8  0.9 single  512  0  90 0.1 0.0 0.0 0.1 0.9999 224
convnextv2_tiny_in22k_in1k        2.5e-5 1e-8  0.9 single  512  0  90 0.1 0.0 0.0 0.1 0.9999 224
convnextv2_base_in22k_in1k        2.5e-5 1e-8  0.8  group  512  0  30 0.1 0.0 0.0 0.2 0.9999 224
convnextv2_large_in22k_in1k       2.5e-5 1e-8  0.8  group  512  0  30 0.1 0.0 0.0 0.3 0.9999 224
convnextv2_nano_in22k_in1k_384    2.5e-5 1e-8  0.9 single  512  0  90 0.1 0.0 0.0 0.1 0.9999 384
convnextv2_tiny_in22k_in1k_384    2.5e-5 1e-8  0.9 single  512  0  90 0.1 0.0 0.0 0.1 0.9999 384
convnextv2_base_in22k_in1k_384    2.5e-5 1e-8  0.8  group  512  0  30 0.1 0.0 0.0 0.2 0.9999 384
convnextv2_large_in22k_in1k_384   2.5e-5 1e-8  0.8  group  512  0  30 0.1 0.0 0.0 0.3 0.9999 384
convnextv2_huge_in22k_in1k_384    2.5e-5 1e-8 0.85  group  512  0  30 0.1 0.0 0.0 0.5   None 384
convnextv2_huge_in22k_in1k_512    2.5e-5 1e-8 0.85  group  512  0  30 0.1 0.0 0.0 0.5   None 512
"""  # arXiv 2301.00808, appendix A.1
V1_TABLE = """
convnext_tiny_in1k                2.5e-4 0.05  1.0 single 4096 20 300 0.1 0.8 1.0 0.1 0.9999 224
convnext_small_in1k               2.5e-4 0.05  1.0 single 4096 20 300 0.1 0.8 1.0 0.4 0.9999 224
convnext_base_in1k                2.5e-4 0.05  1.0 single 4096 20 300 0.1 0.8 1.0 0.5 0.9999 224
convnext_large_in1k               2.5e-4 0.05  1.0 single 4096 20 300 0.1 0.8 1.0 0.5 0.9999 224
"""  # arXiv 2201.03545, appendix A.1: a rate of 4e-3 at a batch of 4096 is 2.5e-4 for 256 images
ROWS = [line.split() for line in (V2_TABLE + V1_TABLE).splitlines() if line]
TABLE = {name: values for name, *values in ROWS}
OURS = {"cifar10", "digits", "small_folder"}


def read(name: str) -> FinetuneConfig:
    return read_settings(FinetuneConfig, find_recipe(name, "fcmae.finetune"))


def row(config: FinetuneConfig) -> list[Any]:
    optim, augment = config.optim, config.augment
    return [
        optim.base_lr, optim.weight_decay, config.layer_decay, config.layer_groups, config.batch_size,
        optim.warmup_epochs, config.epochs, augment.label_smoothing, augment.mixup, augment.cutmix,
        config.network.drop_path_rate, config.ema_decay, config.image_size,
    ]  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_published_values(name: str) -> None:
    config = read(name)
    expected = [text if text in ("single", "group") else literal_eval(text) for text in TABLE[name]]
    columns = HEADER.split()
    assert dict(zip(columns, row(config), strict=True)) == dict(zip(columns, expected, strict=True))
    assert config.model == "_".join(name.split("_")[:2])
    assert config.optim.betas == (0.9, 0.999)
    assert config.optim.min_lr == 1e-6
    assert config.optim.schedule == "cosine"
    assert config.augment.auto_augment == "rand-m9-mstd0.5-inc1"
    assert config.augment.erase == 0.25
    assert config.network.head_init_scale == (1.0 if name.startswith("convnext_") else 0.001)
    assert config.best == ("top1" if config.ema_decay is None else "ema_top1")


def test_no_recipe_is_left_out() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*TABLE, *OURS}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_run_and_states_its_command(path: Path) -> None:
    check(resolve(read(path.stem)))
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    (command,) = [line for line in header if "fcmae finetune" in line and line.startswith("# Command")]
    assert not any(
        "run is the same" in line for line in header
    )  # drop path and mixing are drawn by each process
    if path.stem in TABLE:
        assert f"--config {path.stem} " in command
        assert any(line.startswith("# Claim") and "% " in line for line in header)
