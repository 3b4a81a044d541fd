"""Each section of the page on extending is a file that runs as it stands, and is short."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fcmae.models import layouts
from fcmae.models.layouts.base import visible_positions

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
