"""A sample of what the scripts beside this try: kills at any instant, damaged files, a disk that fails."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
KINDS = pytest.mark.parametrize("kind", ["pretrain", "finetune"])
pytestmark = pytest.mark.slow


def output_of(script: str, *options: str) -> str:
    """Run a script; return what it printed, where it survived all."""
    argv = [sys.executable, str(FOLDER / script), *options, "--seed", "1"]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@KINDS
def test_a_run_killed_at_an_instant_ends_bit_for_bit_the_same(kind: str) -> None:
    assert f"{kind}: killed at 5 of " in output_of("every_instant.py", "--kinds", kind, "--sample", "5")


@KINDS
def test_damaged_files_cost_nothing(kind: str) -> None:
    assert f"{kind}: 10 damaged files" in output_of("damage.py", "--kinds", kind, "--sample", "10")


@KINDS
def test_a_disk_that_fails_costs_no_more_than_a_repeated_command(kind: str) -> None:
    said = output_of(
        "system_errors.py", "--kinds", kind, "--faults", "EIO", "EROFS", "deleted", "--sample", "2"
    )
    assert said.count(" at 2 instants") == 3
