"""Images get their likeliest classes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.finetune.commands.predict import predict
from fcmae.finetune.trained import open_network


def test_predict_writes_the_likeliest_classes_and_lists_broken_files(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.csv"
    assert predict(run, folder, out, topk=3, batch_size=7, workers=0, device="cpu") == (30, 1)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file"] for row in rows) == sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*.png") if path.name != "torn.png"
    )
    assert (tmp_path / "results.csv.broken.txt").read_text().startswith("3/torn.png\t")
    network = open_network(run, torch.device("cpu"))
    for row in rows[:5]:
        pixels = torch.from_numpy(np.array(Image.open(folder / row["file"])))[None, None] / 255
        normalised = (pixels - network.card.mean[0]) / network.card.std[0]
        with torch.no_grad():
            probabilities = network.model(normalised).softmax(1)[0]
        assert int(row["class_1"]) == int(probabilities.argmax())
        assert float(row["probability_1"]) == pytest.approx(float(probabilities.max()), abs=1e-3)
        assert float(row["probability_1"]) >= float(row["probability_2"]) >= float(row["probability_3"])
    right = sum(row["class_1"] == row["file"].split("/")[0] for row in rows)
    assert right > 15  # of 30
