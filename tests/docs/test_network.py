"""The page on the network: its code runs, and each row of its table is a test."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae import create_model
from fcmae.models.card import Card
from fcmae.models.storage import save_weights

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "network.md").read_text(encoding="utf-8")
WHOLLY = [
    f"models/test_{stem}.py" for stem in ("as_timm", "gradients", "graphs", "with_torch", "with_processes")
]


def named() -> list[str]:
    """The tests that the table names, as file::function."""
    return re.findall(r"`([\w/]+\.py::\w+)`", PAGE)


def functions(file: str) -> set[str]:
    """The tests of a file."""
    return set(re.findall(r"^def (test_\w+)", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE))


def test_every_row_is_a_test() -> None:
    rows = [
        line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| **", "| -"))
    ]
    assert len(rows) > 30
    for row in rows[1:]:
        assert "::test_" in row, row
    for test in named():
        file, _, function = test.partition("::")
        assert function in functions(file), test


@pytest.mark.parametrize("file", WHOLLY)
def test_every_test_is_a_row(file: str) -> None:
    assert functions(file) == {test.partition("::")[2] for test in named() if test.startswith(file)}


def test_the_page_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    options: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    encoder = create_model("convnextv2_atto", features_only=True, **options)
    known: dict[str, Any] = {"image_size": (128, 128), "mean": (0.4, 0.4, 0.4), "std": (0.25, 0.25, 0.25)}
    card = Card(model="convnextv2_atto", options={"in_chans": 3, "stem_stride": 4, **options}, **known)
    save_weights(Path("encoder.safetensors"), encoder.state_dict(), card)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    assert torch.isfinite(names["loss"])
    assert [each.shape[2:] for each in names["maps"]] == [(12, 16), (6, 8), (3, 4)]
