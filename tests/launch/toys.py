"""What tests of the command line share: small settings and folders, and the line of a refusal."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.launch.cli.main import main

NETWORK = {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
TINY = {
    "data": "digits",
    "image_size": 16,
    "epochs": 1,
    "batch_size": 32,
    "network": {"in_chans": 1, **NETWORK},
    "decoder": {"dim": 8},
    "optim": {"lr": 1e-3},
    "images": {"workers": 0},
    "loop": {"log_every": 1},
}


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that cannot work; return the one line that it writes."""
    assert main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fcmae: error: ")
    assert error.count("\n") == 1
    return error


def help_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return what a command prints when asked for help."""
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def squeezed(text: str) -> str:
    """Return a text without white space, which wrapping puts in."""
    return "".join(text.split())


def make_pictures(folder: Path, count: int) -> None:
    """Fill a folder with pictures of noise."""
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def make_classes(root: Path, counts: dict[str, int]) -> None:
    """Make a folder of pictures for each class."""
    for name, count in counts.items():
        make_pictures(root / name, count)
