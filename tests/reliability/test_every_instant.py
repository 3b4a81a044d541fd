"""A sample of the instants at which a run may be killed; the script beside this takes them all."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("every_instant.py")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_run_killed_at_an_instant_ends_bit_for_bit_the_same(kind: str) -> None:
    argv = [sys.executable, str(SCRIPT), "--kinds", kind, "--sample", "5", "--seed", "1"]
    result = subprocess.run(argv, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{kind}: killed at 5 of " in result.stdout
