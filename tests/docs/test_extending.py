"""Each section of the page on extending is a file that runs as it stands, and is short."""

import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fcmae.data import sources
from fcmae.engine import loggers
from fcmae.launch.cli.main import main
from fcmae.launch.cluster import registry
from fcmae.models import layouts
from fcmae.models.layouts.base import visible_positions
from fcmae.models.mask import Mask
from tests.engine.toy_run import ToyTask, run_toy

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SECTIONS = dict(
    re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
)
MOST_LINES = 40


def code_of(section: str) -> str:
    """The Python of a section, one block after another."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL))


def run(section: str) -> dict[str, Any]:
    """The names that a section's code leaves behind."""
    names: dict[str, Any] = {"__name__": "extension"}
    torch.manual_seed(0)
    exec(compile(code_of(section), f"{PAGE.name}: {section}", "exec"), names)
    return names


@pytest.mark.parametrize("section", SECTIONS)
def test_an_extension_is_short(section: str) -> None:
    lines = [line for line in code_of(section).splitlines() if line.strip()]
    assert 0 < len(lines) <= MOST_LINES


def test_a_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "LAYOUTS", dict(layouts.LAYOUTS))
    names = run("A layout")
    model = names["model"]
    assert model.layout is names["BlackenedLayout"]
    assert model.encoder.stages[0][0].dwconv.weight.grad.abs().sum() > 0
    mask = names["Mask"].from_hidden(names["mask"], model.grid)
    images = torch.randn(2, 3, 64, 64)
    hidden = ~visible_positions(mask, 64)[:, None]
    changed = model.encode(images + 9 * hidden, mask)
    assert torch.equal(changed, model.encode(images, mask))  # hidden pixels are not seen
    assert changed.permute(0, 2, 3, 1)[mask.hidden.view(2, 2, 2) == 1].abs().sum() > 0  # but worked on


def test_an_encoder() -> None:
    names = run("An encoder")
    model = names["model"]
    assert names["loss"].item() == pytest.approx(1.0, abs=0.1)
    assert names["features"].shape == (1, 64, 7, 9)
    assert all(each.grad.abs().sum() > 0 for each in model.encoder.parameters())
    assert int(model.encoder.norms[0].num_batches_tracked) == 1
    mask = Mask.from_hidden(names["mask"][:2], model.grid)
    images = torch.randn(2, 3, 64, 64)
    hidden = ~visible_positions(mask, 64)[:, None]
    before, after = (model.encode(each, mask) for each in (images, images.where(~hidden, torch.nan)))
    assert torch.equal(after, before)


def test_a_data_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "OPENERS", list(sources.OPENERS))
    run("A data source")
    rows = ["file,label"]
    for i in range(10):
        Image.new("L", (8, 8), 25 * i).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'dark' if i < 5 else 'light'}")
    (tmp_path / "birds.csv").write_text("\n".join(rows))
    table, options = str(tmp_path / "birds.csv"), sources.SourceOptions(channels=1, size=8)
    source = sources.open_source(table, options)
    assert [int(source.read(i).max()) for i in range(len(source))] == [25 * i for i in range(10)]
    for part, count in zip(sources.open_splits(table, options), (8, 2), strict=True):
        assert part.classes == ["dark", "light"]
        assert len(part.labels) == count
        for i, label in enumerate(part.labels.tolist()):
            assert (int(part.source.read(i).max()) >= 125) == (label == 1)


def test_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "LOGGERS", dict(loggers.LOGGERS))
    run("A logger")
    chosen = ("tensorboard", "database")
    run_toy(tmp_path / "whole", ToyTask(), loggers=chosen)
    run_toy(tmp_path / "stopped", ToyTask(signal_after=(8, signal.SIGTERM)), loggers=chosen)
    run_toy(tmp_path / "stopped", ToyTask(), loggers=chosen)
    query = "select epoch, loss from epochs where run = ? order by epoch"
    with closing(sqlite3.connect(tmp_path / "epochs.db")) as database:
        whole, stopped = (database.execute(query, [name]).fetchall() for name in ("whole", "stopped"))
    assert [epoch for epoch, _ in whole] == [1, 2, 3]
    assert stopped == whole


def test_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "CLUSTERS", dict(registry.CLUSTERS))
    monkeypatch.chdir(tmp_path)
    run("A cluster")
    small = ["--epochs", "1", "--image-size", "32", "--batch-size", "256", "--network.depths", "1,1,1,1"]
    argv = ["submit", "pretrain", "--cluster", "background", "--", *small, "--out", "run"]
    assert main([*argv, "--network.dims", "4,4,4,4", "--decoder.dim", "8"]) == 0
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "encoder.safetensors").exists():
        assert time.monotonic() < deadline, next((tmp_path / "run" / "jobs").glob("*_log.out")).read_text()
        time.sleep(0.2)
    capsys.readouterr()
    assert main(["jobs", "run"]) == 0
    assert "pretrain" in capsys.readouterr().out
