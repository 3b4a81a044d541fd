"""The log has neither gaps nor duplicates, and goes wherever a logger is registered for."""

import csv
import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fcmae.core import distributed
from fcmae.core.errors import UserError
from fcmae.core.world import World
from fcmae.engine import loggers
from fcmae.engine.config import LoopConfig
from fcmae.engine.history import RunSettings
from fcmae.engine.loggers import LOGGERS, JsonLines, Logger, Loggers, TensorBoard, register_logger
from fcmae.engine.run_folder import RunFolder
from tests.engine.toy_run import ToyTask, run_toy


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.acquire(RunSettings({"model": "atto"}))
    return run


def log_three(logger: Logger) -> None:
    """Log steps 10, 20 and 30, with an epoch of 20 steps."""
    logger.rewind(0, 0)
    for step in (10, 20, 30):
        logger.log({"step": step, "epoch": step / 20, "loss": 1.0})
        if step == 20:
            logger.log({"step": step, "epoch": 1, "epoch_loss": 1.0})


def scalars(run: RunFolder, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run.tensorboard)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_json_lines_go_on_from_the_checkpoint(run: RunFolder) -> None:
    log_three(JsonLines(run))
    with run.log_file.open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing

    JsonLines(run).rewind(20, finished_epochs=1)
    assert [record["step"] for record in run.records()] == [10, 20, 20]
    JsonLines(run).rewind(20, finished_epochs=0)
    assert [record.get("loss") for record in run.records()] == [1.0, 1.0]


def test_tensorboard_goes_on_from_the_checkpoint(run: RunFolder) -> None:
    log_three(TensorBoard(run))
    again = TensorBoard(run)
    again.rewind(20, finished_epochs=1)
    again.log({"step": 30, "loss": 2.0})
    assert scalars(run, "steps/loss") == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_lines_are_strict_json_and_numbers_reach_tensorboard(run: RunFolder) -> None:
    Loggers(run, ["tensorboard"]).log({"step": 1, "loss": 0.5, "grad_norm": float("nan"), "files": ["a.jpg"]})
    line = run.log_file.read_text()
    assert json.loads(line, parse_constant=pytest.fail)["grad_norm"] is None
    assert scalars(run, "steps/loss") == [(1, 0.5)]


def test_lines_tell_the_time(run: RunFolder) -> None:
    JsonLines(run).log({"step": 1, "loss": 0.5})
    (record,) = run.records()
    assert abs(record["time"] - time.time()) < 60


def test_tensorboard_shows_settings_and_new_pictures(run: RunFolder) -> None:
    board = TensorBoard(run)
    Image.new("RGB", (12, 8), "red").save(run.reconstructions)
    for epoch in (1, 2):
        board.log({"step": 10 * epoch, "epoch": epoch, "epoch_loss": 0.5})
    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert [(image.step, image.width, image.height) for image in events.Images("reconstructions")] == [
        (10, 12, 8)
    ]
    assert scalars(run, "epochs/epoch_loss") == [(10, 0.5), (20, 0.5)]
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "model: atto" in text


def test_only_rank_zero_writes(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    log_three(Loggers(run, ["tensorboard"]))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    monkeypatch.setattr(distributed, "_joined", World(rank=1, size=2))
    log_three(Loggers(run, ["tensorboard"]))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_logger_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Losses(Logger):
        """The steps' losses as a table."""

        def log(self, record: dict[str, Any]) -> None:
            if "loss" in record:
                with (self.run.path / "losses.csv").open("a") as file:
                    csv.writer(file).writerow([record["step"], record["loss"]])

    monkeypatch.setattr(loggers, "LOGGERS", dict(LOGGERS))
    register_logger("losses", Losses)
    LoopConfig(loggers=("losses",)).check()
    run_toy(tmp_path, ToyTask(), loggers=("losses",))
    run = RunFolder(tmp_path)
    rows = [(each["step"], each["loss"]) for each in run.records() if "loss" in each]
    with (tmp_path / "losses.csv").open() as file:
        assert [(int(step), float(loss)) for step, loss in csv.reader(file)] == rows
    assert rows
    assert not run.tensorboard.exists()  # it was not named


def test_a_logger_that_nobody_registered_is_refused() -> None:
    with pytest.raises(UserError, match=r"loop\.loggers names 'wandb': choose from tensorboard"):
        LoopConfig(loggers=("tensorboard", "wandb")).check()
