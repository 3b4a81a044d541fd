"""The page on runs that come back: each row of its table is a test or a script, and its commands run."""

import re
import shlex
from pathlib import Path

import pytest

from fcmae.launch.cli.main import main

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [
    line
    for line in PAGE.partition("## Faults that were tried")[2].partition("\nThe scripts ")[0].splitlines()
    if line.startswith("| ") and not line.startswith(("| **", "| -", "| fault"))
]
SMALL = [
    "--network.depths",
    "1,1,1,1",
    "--network.dims",
    "2,3,4,5",
    "--decoder.dim",
    "8",
    "--image-size",
    "16",
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0].strip("| ")[:50])
def test_every_row_is_a_test_or_a_script(row: str) -> None:
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row)
    assert named
    for file, function in named:
        content = (TESTS / file).read_text(encoding="utf-8")
        assert f"\ndef {function}(" in content if function else "__main__" in content, (file, function)


def test_the_table_has_kills_signals_clusters_damage_the_system_and_numbers() -> None:
    assert len(ROWS) > 40
    headings = re.findall(r"^\| \*\*(.+?)\*\* \|", PAGE, re.MULTILINE)
    assert headings == ["kills", "signals", "clusters", "damage", "errors of the system", "numbers"]


def test_a_run_goes_on_differently_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^fcmae (pretrain .*--out runs/longer.*)$", PAGE, re.MULTILINE)
    assert [main([*shlex.split(command), *SMALL]) for command in commands] == [0, 0]
    [said] = re.findall(r"^fcmae: (runs/longer goes on .*)$", PAGE, re.MULTILINE)
    assert said in caplog.text
    assert (tmp_path / "runs/longer/schedule.png").is_file()
    assert len((tmp_path / "runs/longer/settings.jsonl").read_text().splitlines()) == 2
