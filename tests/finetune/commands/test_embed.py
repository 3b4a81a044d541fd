"""Images get their features."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from fcmae.finetune.commands.embed import NpzWriter, embed
from fcmae.finetune.commands.predict import predict
from fcmae.finetune.trained import open_network

CPU = torch.device("cpu")


def test_embed_gives_what_the_head_is_given(run: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.npz"
    assert embed(run, folder, out, batch_size=7, workers=0, device="cpu") == (30, 1)
    with np.load(out, allow_pickle=False) as file:
        features, files = file["features"], file["files"].tolist()
    assert (features.dtype, features.shape) == (np.float32, (30, 24))
    head = open_network(run, CPU).model.head
    with torch.no_grad():
        logits = head(torch.from_numpy(features))  # type: ignore[operator]
    predict(run, folder, tmp_path / "results.csv", workers=0, device="cpu")
    with (tmp_path / "results.csv").open(newline="") as stream:
        assert {row["file"]: int(row["class_1"]) for row in csv.DictReader(stream)} == dict(
            zip(files, logits.argmax(1).tolist(), strict=True)
        )


def test_parquet_holds_what_npz_holds(run: Path, folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    for suffix in ("npz", "parquet"):
        embed(run, folder, tmp_path / f"features.{suffix}", workers=0, device="cpu")
    table = parquet.read_table(tmp_path / "features.parquet")
    with np.load(tmp_path / "features.npz", allow_pickle=False) as file:
        assert table["files"].to_pylist() == file["files"].tolist()
        assert np.array_equal(np.array(table["features"].to_pylist(), np.float32), file["features"])


def test_names_and_features_go_through_files_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcmae.finetune.commands.embed.PIECE", 7)
    names = ["a/1.jpg", "ü" * 20, "\udcff.png", "b"]
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    with (tmp_path / "f.npz").open("w+b") as file, NpzWriter(file, tmp_path) as writer:
        writer.add(names[:3], features[:3])
        writer.add(names[3:], features[3:])
    with np.load(tmp_path / "f.npz", allow_pickle=False) as read:
        assert read["files"].tolist() == names
        assert np.array_equal(read["features"], features)
    assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]
