"""`fcmae data`: its commands from the command line, what they print and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.launch.cli.main import main
from tests.launch.toys import make_classes, refusal


@pytest.fixture
def animals(directory: Path) -> Path:
    """The working directory, with pictures of two classes in animals/, of which one is broken."""
    make_classes(Path("animals"), {"cat": 6, "dog": 4})
    broken = next(Path("animals/cat").iterdir())
    broken.write_bytes(b"no image")
    return directory


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["guess", "animals"], "inspect, pack, verify"),
        (["inspect", "nowhere"], "nowhere does not exist"),
        (["inspect", "animals", "--channels=0"], "--channels is 0"),
        (["inspect", "animals", "--sample=0"], "--sample is 0"),
        (["inspect", "animals", "--out=no/sheet.png"], "no does not exist"),
        (["pack", "animals", "animals/packed"], "lies in"),
        (["pack", "animals", "packed", "--quality=0"], "--quality is 0"),
        (["pack", "animals", "packed", "--short-side=0"], "--short-side is 0"),
        (["pack", "animals", "packed", "--shard-size=0"], "--shard-size is 0"),
        (["verify", "animals", "--workers=-1"], "--workers is -1"),
    ],
)
@pytest.mark.usefixtures("animals")
def test_options_that_cannot_work(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    assert message in refusal(capsys, "data", *argv)


@pytest.mark.usefixtures("animals")
def test_a_folder_is_inspected_packed_and_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", "animals", "--json", "--workers=0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == {"images": 10}
    assert found["broken"]["count"] == 1
    assert Path("contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert main(["data", "inspect", "animals", "--workers=0"]) == 0
    assert "from 4 (dog) to 6 (cat) images of a class" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "verify", "animals", "--workers=0"]) == 1
    printed = capsys.readouterr().out
    assert "animals" not in printed.splitlines()[0]
    assert printed.endswith("10 images, 1 faults\n")
    assert main(["data", "pack", "animals", "packed", "--short-side=8", "--workers=0"]) == 0
    printed = capsys.readouterr().out
    assert "packed 9 images of animals into 1 shards" in printed
    assert "1 broken images were left out" in printed
    assert main(["data", "verify", "packed", "--workers=0"]) == 0


def test_values_of_16_bits_that_would_become_a_few_greys_are_not_packed(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "cells").mkdir()
    for i in range(3):
        cells = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 10)
        cells.save(directory / "cells" / f"{i}.png")
    argv = ["data", "pack", "cells", "packed", "--short-side=8", "--channels=1", "--workers=0"]
    assert main(argv) == 2
    assert "[0, 4095]" in capsys.readouterr().err
    assert main([*argv, "--value-range=[0, 4095]"]) == 0
