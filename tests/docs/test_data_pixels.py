"""The data page's commands on deep images and on bands with no-data run as they stand."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcmae.launch.cli.main import main
from fcmae.models.card import read_card

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SMALL = "--epochs 1 --batch-size 4 --image-size 32 --network.stem-stride 1 --network.depths [1,1,1,1]"
SMALL += " --network.dims [8,12,16,24] --images.workers 0 --device cpu"
SMALL_DECODER = "--decoder.dim 16"


def commands(heading: str) -> list[list[str]]:
    """The commands of a section of the page, as words."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [shlex.split(block.replace("\\\n", "")) for block in blocks]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_a_microscopes_tiles() -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        tile = Image.fromarray(rng.integers(0, 4096, (40, 40)).astype(np.uint16))
        for folder in (Path("tiles"), Path("labelled", f"class{number % 2}")):
            folder.mkdir(parents=True, exist_ok=True)
            tile.save(folder / f"{number}.{'png' if number % 4 < 2 else 'tif'}")
    pretrain, finetune = commands("A microscope's 16-bit tiles")
    assert pretrain[:2] == ["fcmae", "pretrain"]
    assert main([*pretrain[1:], *shlex.split(SMALL), *shlex.split(SMALL_DECODER)]) == 0
    measured = json.loads(Path("runs/tiles-convnextv2_atto/statistics.json").read_text())
    assert measured["mean"] == pytest.approx([0.5], abs=0.02)
    small = SMALL[: SMALL.index("--network")] + SMALL[SMALL.index("--images.workers") :]
    assert main([*finetune[1:], *shlex.split(small), "--val-fraction", "0.25", "--out", "runs/tuned"]) == 0
    card = read_card(Path("runs/tuned"))
    assert card is not None
    assert (card.value_range, card.mean) == ((0, 4095), tuple(measured["mean"]))


def test_bands_with_no_data() -> None:
    rng = np.random.default_rng(0)
    Path("scenes").mkdir()
    for number in range(8):
        scene = rng.random((40, 40, 4)).astype(np.float32) / 2
        scene[: 5 * number] = -9999
        np.save(f"scenes/{number}.npy", scene)
    inspect, pretrain = commands("Satellite bands with no-data")
    assert main([*inspect[1:], "--workers", "0"]) == 0
    assert Path("contact_sheet.png").exists()
    assert main([*pretrain[1:], *shlex.split(SMALL), *shlex.split(SMALL_DECODER)]) == 0
    card = read_card(Path("runs/scenes-convnextv2_atto"))
    assert card is not None
    assert card.no_data == -9999
    assert card.mean == pytest.approx([0.5] * 4, abs=0.05)
    assert Path("runs/scenes-convnextv2_atto/reconstructions.png").exists()
