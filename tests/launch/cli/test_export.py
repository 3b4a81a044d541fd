"""`fcmae export`: what it refuses, and what it says of what it wrote."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae import create_model
from fcmae.launch.cli.main import main
from fcmae.models.card import Card
from fcmae.models.storage import save_weights
from tests.launch.toys import refusal

WEIGHTS = "--weights=weights.safetensors"
pytestmark = pytest.mark.usefixtures("trained")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([WEIGHTS, "--out=x", "--format=caffe"], "caffe"),
        ([WEIGHTS, "--out=x.pt", "--format=torch"], "end in .pt2"),
        ([WEIGHTS, "--out=data"], "exists already"),
    ],
)
def test_options_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "export", *argv)


@pytest.mark.parametrize("format", ["torch", "timm", "transformers"])
def test_the_lines_that_are_printed_read_what_was_written(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    network = create_model("convnextv2_tiny", num_classes=3, **size)
    weights, out = tmp_path / "own.safetensors", tmp_path / ("out.pt2" if format == "torch" else "out")
    save_weights(
        weights, network.state_dict(), Card(model="convnextv2_tiny", options=size, image_size=(32, 32))
    )
    assert main(["export", "--weights", str(weights), "--format", format, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.partition("in Python by:\n")[2]
    names: dict[str, Any] = {"images": torch.zeros(2, 3, 32, 32)}
    exec(textwrap.dedent(lines), names)
    assert names["outputs"].shape == (2, 3) if format == "torch" else names["model"] is not None
