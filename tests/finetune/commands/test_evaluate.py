"""A classifier is measured on images that it was not trained on, each once."""

import csv
import json
import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.checks import check_labelled
from fcmae.finetune.commands.evaluate import evaluate
from fcmae.finetune.config import FinetuneConfig
from tests.finetune.small_run import run_small

CPU = torch.device("cpu")


def logged(run: Path) -> dict[str, float]:
    records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return max((each for each in records if "epoch_loss" in each), key=lambda each: each["top1"])


def test_evaluate_repeats_what_training_measured(run: Path, tmp_path: Path) -> None:
    metrics = evaluate(run, "digits", out=tmp_path / "report", device="cpu", workers=0, batch_size=50)
    for name in ("top1", "top5", "mean_class", "val_loss"):
        assert metrics[name] == pytest.approx(logged(run)[name], rel=1e-4)
    assert (metrics["images"], metrics["unreadable"]) == (359, 0)
    assert json.loads((tmp_path / "report" / "metrics.json").read_text()) == metrics
    with (tmp_path / "report" / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    counts = np.array([row[1:] for row in rows], int)
    assert header[1:] == [row[0] for row in rows] == [str(i) for i in range(10)]
    assert counts.sum() == 359
    assert 100 * counts.trace() / 359 == pytest.approx(metrics["top1"])
    for name in ("confusion.png", "worst_classes.png"):
        assert Image.open(tmp_path / "report" / name).size[0] > 200


def test_evaluate_never_measures_what_a_run_was_trained_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_small(out, data=str(folder), seed=3, epochs=1, batch_size=4, train_fraction=1.0, ema_decay=None)
    expected = 10  # one of each class
    for data in (None, str(folder)):
        metrics = evaluate(out, data, device="cpu", workers=0)
        assert metrics["images"] + metrics["unreadable"] == expected
        assert metrics["top1"] == pytest.approx(logged(out)["top1"])


def test_evaluate_knows_a_run_by_a_file_in_it_and_its_data_by_the_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "there"):
        shutil.copytree(folder, tmp_path / place / "numbers")
    monkeypatch.chdir(tmp_path / "here")
    run_small(Path("run"), data="numbers", epochs=1, batch_size=4, train_fraction=1.0, ema_decay=None)
    monkeypatch.chdir(tmp_path / "there")
    run, trained_on = tmp_path / "here" / "run", tmp_path / "here" / "numbers"

    def count(weights: Path, data: str | None) -> int:
        metrics = evaluate(weights, data, device="cpu", workers=0)
        return int(metrics["images"] + metrics["unreadable"])

    for data in (None, str(trained_on), "../here/numbers"):
        assert count(run / "model.safetensors", data) == 10  # one of each class
    assert count(run, "numbers") == 31  # another folder of the same name
    shutil.copy(run / "model.safetensors", "alone.safetensors")
    assert count(Path("alone.safetensors"), str(trained_on)) == 31
    with pytest.raises(UserError, match="belongs to no fine-tuning"):
        check_labelled(None, Path("alone.safetensors"))


def test_own_data_by_name_is_looked_for_where_it_is_said_to_lie(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = []

    def open_data(config: FinetuneConfig, run: RunFolder) -> NoReturn:
        roots.append(config.data_root)
        raise UserError("far enough")

    monkeypatch.setattr("fcmae.finetune.commands.evaluate.open_data", open_data)
    for data_root in ("elsewhere", None):
        with pytest.raises(UserError, match="far enough"):
            evaluate(run, "digits", data_root=data_root, device="cpu")
    assert roots == ["elsewhere", "data"]


def test_evaluate_knows_classes_by_name(run: Path, folder: Path) -> None:
    metrics = evaluate(run, str(folder), device="cpu", workers=0)
    assert (metrics["images"], metrics["unreadable"]) == (30, 1)
    for path in sorted(folder.iterdir())[:5]:
        path.rename(folder / f"hidden.{path.name}")  # a hidden class is a missing class
    try:
        with pytest.raises(UserError, match=r"does not know 5 of the .* classes of .* \(hidden\.0"):
            evaluate(run, str(folder), device="cpu", workers=0)
    finally:
        for path in folder.glob("hidden.*"):
            path.rename(folder / path.name.removeprefix("hidden."))
