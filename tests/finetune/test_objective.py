"""Several labels and numbers: learned, measured, kept and predicted as the labels count."""

import csv
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.images import ArraySource, Labelled
from fcmae.finetune.config import FinetuneConfig
from fcmae.finetune.measure import LabelScores, NumberScores
from fcmae.finetune.objective import best_direction, make_objective
from fcmae.launch.cli.main import main
from fcmae.models.card import read_card

ON_CPU = ["--workers=0", "--device=cpu"]
SMALL = shlex.split(
    "--model=convnextv2_atto --image-size=32 --network.stem-stride=1 --network.depths=[1,1,1,1] "
    "--network.dims=[8,8,16,16] --network.in-chans=1 --batch-size=16 --epochs=15 --images.workers=0 "
    "--device=cpu --images.crop-scale=[1,1] --images.hflip=false --crop-pct=1 --augment.auto-augment=null "
    "--augment.erase=0 --loop.loggers=[] --optim.warmup-epochs=0 --optim.lr=0.01 --ema-decay=null "
    "--best=top1 --out=run"
)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images whose left and right halves are bright or dark, and how bright they are, from 100 to 355."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = []
    for i, (left, right) in enumerate(np.random.default_rng(0).integers(0, 256, (64, 2))):
        pixels = np.repeat([[left] * 16 + [right] * 16], 32, 0).astype(np.uint8)
        Image.fromarray(pixels).save(f"{i}.png")
        tags = "|".join(name for name, value in (("left", left), ("right", right)) if value > 127)
        rows.append([f"{i}.png", tags, 100 + (int(left) + int(right)) / 2])
    with open("table.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "tags", "age"], *rows])
    return tmp_path / "table.csv"


def predicted() -> list[dict[str, str]]:
    assert (
        main(
            [
                "predict",
                "--weights",
                "run",
                "--images",
                "table.csv",
                "--out",
                "said.csv",
                "--workers=0",
                "--device=cpu",
            ]
        )
        == 0
    )
    with open("said.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_several_labels_are_learned(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", f"--data={table}:labels=tags", *SMALL]) == 0
    with table.open() as file:
        true = [set(row["tags"].split("|")) for row in csv.DictReader(file)]
    said = predicted()
    assert list(said[0]) == ["file", "left", "right"]
    names = ("left", "right")
    pairs = list(zip(said, true, strict=True))
    right = [(float(row[name]) > 0.5) == (name in tags) for row, tags in pairs for name in names]
    assert np.mean(right) > 0.8
    card = read_card(Path("run"))
    assert card is not None
    assert (card.labels, card.class_names) == ("labels", ("left", "right"))
    assert card.metrics is not None
    assert card.metrics["map"] > 85
    capsys.readouterr()
    assert main(["evaluate", "--weights=run", "--out=report", *ON_CPU]) == 0
    assert f"mean average precision {card.metrics['map']:.2f} %" in capsys.readouterr().out
    Path("other.csv").write_text("file,kind\n0.png,left\n1.png,right\n")
    assert main(["evaluate", "--weights=run", "--data=other.csv:label=kind", *ON_CPU]) == 2
    assert "of the kind class" in capsys.readouterr().err
    assert main(["probe", "--weights=run", f"--data={table}:labels=tags", *ON_CPU]) == 2


def test_numbers_are_learned_and_said_in_their_units(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", f"--data={table}:numbers=age", *SMALL]) == 0
    with table.open() as file:
        true = np.array([float(row["age"]) for row in csv.DictReader(file)])
    said = np.array([float(row["age"]) for row in predicted()])
    assert np.abs(said - true).mean() < 0.4 * np.abs(true - true.mean()).mean()
    card = read_card(Path("run"))
    assert card is not None
    assert card.metrics is not None
    assert card.labels == "numbers"
    capsys.readouterr()
    assert main(["evaluate", "--weights=run", *ON_CPU]) == 0
    assert f"mean absolute error {card.metrics['mae']:.4g}," in capsys.readouterr().out


def data(labels: torch.Tensor, kind: Any) -> Labelled:
    images = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
    return Labelled(ArraySource(images), labels, [str(i) for i in range(labels.shape[-1])], kind)


def test_losses_are_those_of_torch(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator)
    config = FinetuneConfig(balance="loss")
    config.augment.label_smoothing = 0.2
    flags = (torch.rand(6, 3, generator=generator) > 0.5).to(torch.uint8)
    loss = make_objective(data(flags, "labels"), config, None).loss(logits, flags)
    smooth = torch.where(flags.bool(), 0.9, 0.1)
    expected = torch.nn.BCEWithLogitsLoss(reduction="sum")(logits, smooth) / 3
    torch.testing.assert_close(loss, expected)
    assert "balance" in caplog.text
    values = torch.randn(6, 3, generator=generator) * 50 + 1000
    objective = make_objective(data(values, "numbers"), config, None)
    standard = (values - values.mean(0)) / values.std(0, correction=0)
    torch.testing.assert_close(objective.to_units(standard), values)
    torch.testing.assert_close(objective.loss(logits, objective.to_units(logits)), torch.tensor(0.0))
    head = torch.nn.Linear(5, 3)
    features = torch.randn(6, 5, generator=generator)
    state = objective.finish("head", {f"head.{name}": value for name, value in head.state_dict().items()})
    finished = torch.nn.functional.linear(features, state["head.weight"], state["head.bias"])
    torch.testing.assert_close(finished, objective.to_units(head(features)))


def test_the_metric_that_chooses_is_one_that_is_measured() -> None:
    objective = make_objective(data(torch.rand(6, 3), "numbers"), FinetuneConfig(), None)
    assert [objective.best(name) for name in ("top1", "ema_top1", "rmse", "ema_val_loss", "loss")] == [
        "mae", "ema_mae", "rmse", "ema_val_loss", "loss",
    ]  # fmt: skip
    with pytest.raises(UserError, match="map"):
        objective.best("map")
    directions = {name: best_direction(name) for name in ("top1", "ema_map", "r2", "ema_mae", "rmse", "loss")}
    assert [name for name, direction in directions.items() if direction == "max"] == ["top1", "ema_map", "r2"]


def test_scores_of_labels_and_numbers() -> None:
    scores = LabelScores(2)
    scores.add(torch.tensor([[3.0, 0.0], [2.0, 1.0]]), torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8))
    scores.add(torch.tensor([[1.0, 2.0]]), torch.tensor([[1, 0]], dtype=torch.uint8))
    scores.gather()
    assert int(scores.images) == 3
    assert scores.metrics()["map"] == pytest.approx(100 * ((1 + 2 / 3) / 2 + 1 / 2) / 2)
    for labels, expected in (
        ([[1, 0]], 100.0),
        ([[0, 0]], 0.0),
        ([[1, 1]], 100.0),
        ([[1, 0], [1, 0]], 100.0),
    ):
        few = LabelScores(2)
        few.add(torch.zeros(len(labels), 2), torch.tensor(labels))
        assert few.metrics()["map"] == expected
    numbers = NumberScores(1)
    numbers.add(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[1.0], [3.0], [5.0]]))
    metrics = numbers.metrics()
    assert metrics["mae"] == pytest.approx(2 / 3)
    assert metrics["rmse"] == pytest.approx((2 / 3) ** 0.5)
    assert metrics["r2"] == pytest.approx(1 - (2 / 3) / (8 / 3))
