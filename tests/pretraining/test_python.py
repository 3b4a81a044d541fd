"""Pre-training as a call does what the command does, on data from anywhere, and leaves nothing behind."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import submitit
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fcmae.core.errors import UserError
from fcmae.data.sources import memory
from fcmae.engine.checkpoint import Checkpoints
from fcmae.launch.cli.main import main
from fcmae.pretraining import PretrainedRun, pretrain

SIZE = {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8]}
OPTIONS: dict[str, Any] = {
    "image_size": 16,
    "batch_size": 8,
    "device": "cpu",
    "network": SIZE,
    "decoder": {"dim": 8},
    "images": {"workers": 0},
    "loop": {"log_every": 1, "loggers": []},
}


class Squares(Dataset[tuple[Image.Image, int]]):
    """Grey squares, as torchvision's data sets are before a transform."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((20, 20), 10 * index, np.uint8)), index % 2


def pixels(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (16, channels, 20, 20), dtype=torch.uint8, generator=generator)


def weights(run: Path) -> dict[str, Tensor]:
    state = Checkpoints(run / "checkpoints").newest()
    assert state is not None
    model: dict[str, Tensor] = state["model"]
    return model


def test_the_call_is_the_command(tmp_path: Path) -> None:
    run = pretrain("digits", epochs=1, out=tmp_path / "call", **{**OPTIONS, "batch_size": 512})
    command = [
        "pretrain",
        "--data=digits",
        "--epochs=1",
        "--image-size=16",
        "--batch-size=512",
        "--device=cpu",
    ]
    command += ["--network.stem-stride=1", "--network.depths=[1,1,1,1]", "--network.dims=[4,4,8,8]"]
    command += ["--decoder.dim=8", "--images.workers=0", "--loop.log-every=1", "--loop.loggers=[]"]
    assert main([*command, "--out", str(tmp_path / "command")]) == 0
    ours, theirs = weights(run.path), weights(tmp_path / "command")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", ["tensor", "array", "dataset"])
def test_data_of_code(kind: str, tmp_path: Path) -> None:
    data = {"tensor": pixels(), "array": pixels().numpy(), "dataset": Squares()}[kind]
    records: list[dict[str, Any]] = []
    run = pretrain(data, epochs=2, out=tmp_path / "run", callback=records.append, **OPTIONS)
    assert isinstance(run, PretrainedRun)
    assert run.steps["step"].tolist() == [1, 2, 3, 4]
    assert run.epochs["epoch"].tolist() == [1, 2]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4]
    assert np.isfinite(run.steps["loss"]).all()
    assert len(run.curves().axes) >= 3
    assert run.reconstructions().width > 100
    assert run.encoder()(torch.zeros(1, 3, 16, 16)).shape == (1, 8)
    assert run.settings["network"]["dims"] == SIZE["dims"]
    assert memory._held == {}


def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    whole = pretrain(pixels(), epochs=3, out=tmp_path / "whole", **OPTIONS)
    first = pretrain(pixels(), epochs=3, out=tmp_path / "run", callback=stop, **OPTIONS)
    assert first.summary is not None
    assert first.summary.interrupted == signal.SIGINT
    assert 3 <= first.summary.steps < 6
    second = pretrain(pixels(), epochs=3, out=tmp_path / "run", **OPTIONS)
    ours, theirs = weights(whole.path), weights(second.path)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(UserError, match="data"):
        pretrain(pixels() // 2, epochs=3, out=tmp_path / "run", **OPTIONS)


def test_submitit_runs_the_call(tmp_path: Path) -> None:
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=5)
    run = executor.submit(pretrain, pixels(), epochs=1, out=tmp_path / "run", **OPTIONS).result()
    assert run.path == tmp_path / "run"
    assert run.epochs["epoch"].tolist() == [1]


def test_the_command_cannot_go_on_with_what_code_handed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(pixels(), epochs=1, out=tmp_path / "run", **OPTIONS)
    assert main(["pretrain", "--data", str(run.settings["data"]), "--out", str(tmp_path / "other")]) == 2
    assert "code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "options", "named"),
    [
        (torch.zeros(4, 3, 20, 20), {}, "uint8"),
        (7, {}, "int"),
        (pixels(1), {}, "in_chans"),
        (pixels(), {"epoch": 3}, "epochs"),
        (pixels(), {"epochs": "many"}, "epochs"),
        (pixels(), {"optim": {"rate": 1}}, "rate"),
    ],
)
def test_what_cannot_be_is_refused(data: Any, options: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        pretrain(data, out=tmp_path / "run", **OPTIONS, **options)
    assert memory._held == {}
