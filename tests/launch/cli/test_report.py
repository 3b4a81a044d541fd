"""What the commands say of their runs, from a folder of labels to tables."""

from pathlib import Path

import numpy as np
import pytest

from fcmae.launch.cli.main import main

TINY = ["--image-size=32", "--batch-size=4", "--images.workers=0", "--device=cpu"]
pytestmark = pytest.mark.usefixtures("trained")


def test_from_folder_to_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Fine-tune by the newcomer's recipe, evaluate, predict, embed: the commands say where to look."""
    argv = ["--init=weights.safetensors", "--epochs=1", "--out=run"]
    assert main(["finetune", "--data=data", *TINY, *argv]) == 0
    shown = capsys.readouterr().out
    assert " on 10 + 2 images of data, 32 x 32, cpu; run folder: run\n" in shown
    assert "run/model.safetensors" in shown
    assert "unreadable" not in shown
    assert main(["evaluate", "--weights=run", "--data=data", "--out=report", "--workers=0"]) == 0
    assert "\n2 images, 0 unreadable" in capsys.readouterr().out
    assert main(["predict", "--weights=run", "--images=data", "--topk=1", "--workers=0"]) == 0
    assert len(Path("results.csv").read_text().splitlines()) == 13
    assert main(["embed", "--weights=run", "--images=data", "--workers=0"]) == 0
    assert np.load("results.npz")["features"].shape == (12, 4)
    Path("run/broken_val_images.txt").write_text("cat/0.png\tcut short\n")
    capsys.readouterr()
    assert main(["finetune", "--data=data", *TINY, *argv]) == 0  # complete: returns at once
    assert "\n  unreadable  1 of 2 images, listed in run/broken_val_images.txt\n" in capsys.readouterr().out
