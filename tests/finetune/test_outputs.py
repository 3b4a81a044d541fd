"""What a network gives for a folder is written under the names of its files."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcmae.finetune.embed import embed
from fcmae.finetune.predict import predict


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
