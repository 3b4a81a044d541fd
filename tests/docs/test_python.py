"""The page on Python: its examples run as they stand, in an empty folder."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = dict(
    re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    exec(compile(EXAMPLES[name], f"{PAGE}: {name}", "exec"), {"__name__": name})
    printed = capsys.readouterr().out
    assert {"train": "['0', '1']", "follow": "epoch 1: loss 0."}[name] in printed
    assert list((tmp_path / "runs").iterdir())
