"""What a network gives for a folder is written under the names of its files."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcmae.data.config import ImagesConfig
from fcmae.finetune.commands.embed import embed
from fcmae.finetune.commands.evaluate import evaluate
from fcmae.finetune.commands.predict import predict
from fcmae.finetune.config import AugmentConfig
from tests.finetune.small_run import NETWORK, run_small


def test_names_that_are_not_utf_8_are_written(run: Path, folder: Path, tmp_path: Path) -> None:
    name = b"caf\xe9.npy"
    (tmp_path / "images").mkdir()
    try:
        np.save(tmp_path / "images" / os.fsdecode(name), np.array(Image.open(folder / "1" / "1.png")))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    options: dict[str, Any] = {"workers": 0, "device": "cpu"}
    assert predict(run, tmp_path / "images", tmp_path / "results.csv", **options) == (1, 0)
    assert name in (tmp_path / "results.csv").read_bytes()
    embed(run, tmp_path / "images", tmp_path / "features.npz", **options)
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        assert file["files"].tolist() == [os.fsdecode(name)]
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    embed(run, tmp_path / "images", tmp_path / "features.parquet", **options)
    assert parquet.read_table(tmp_path / "features.parquet")["files"].to_pylist() == ["caf?.npy"]


def test_no_data_changes_no_bit_of_what_is_given_out(tmp_path: Path) -> None:
    """Trained, measured, predicted and embedded, whatever stands where nothing was measured."""
    rng = np.random.default_rng(0)
    outcomes = []
    images = rng.random((20, 20, 24, 2)).astype(np.float32)
    gaps = rng.random((20, 20, 24, 1)) < 0.2
    for value in ("nan", -9999.0):
        root = tmp_path / str(value)
        for number, image in enumerate(np.where(gaps, np.float32(value), images)):
            path = root / "images" / f"class{number % 2}" / f"{number}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, image)
        options: dict[str, Any] = {
            "data": str(root / "images"),
            "batch_size": 8,
            "train_fraction": 1.0,
            "epochs": 1,
            "network": replace(NETWORK, in_chans=2),
            "augment": AugmentConfig(auto_augment=None, erase=0.0),
            "images": ImagesConfig(workers=0, no_data=value, turns=True),
        }
        run_small(root / "run", **options)
        use: dict[str, Any] = {"workers": 0, "device": "cpu"}
        embed(root / "run", root / "images", root / "features.npz", **use)
        assert predict(root / "run", root / "images", root / "results.csv", **use) == (20, 0)
        with np.load(root / "features.npz") as file:
            features = file["features"]
        metrics = evaluate(root / "run", **use)
        outcomes.append(
            (features, (root / "results.csv").read_text(), metrics["val_loss"], metrics["images"])
        )
    assert np.isfinite(outcomes[0][0]).all()
    assert np.array_equal(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1:] == outcomes[1][1:]
