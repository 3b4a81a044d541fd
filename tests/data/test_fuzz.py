"""Damaged files of every kind give an image or a BrokenImage: a sample of what benchmarks/fuzz.py reads."""

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

from fcmae.data.decode import BrokenImage, read_image

KINDS = fuzz.kinds()
DAMAGES = 24  # of each kind; the benchmark reads hundreds


@pytest.mark.parametrize("kind", KINDS)
def test_damage_costs_one_image(kind: str) -> None:
    outcomes = dict(fuzz.fuzz(kind, KINDS[kind](), range(DAMAGES)))
    assert list(outcomes) == list(range(DAMAGES))
    assert set(outcomes.values()) <= {"read", "broken"}, outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_was_whole(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole.{kind.split()[0]}"
    path.write_bytes(KINDS[kind]())
    image = read_image(path, 5 if kind in ("npy", "tif float", "tif tiled", "tif pages") else 3)
    assert sorted(image.shape[1:]) == sorted(fuzz.SIDES)


def test_crashes_hangs_and_exceptions_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_badly(path: Path, whole: bytes, number: int) -> str:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while number == 2:
            pass
        return "read"

    monkeypatch.setattr(fuzz, "read_damaged", read_badly)
    assert list(fuzz.fuzz("png", b"", range(4), 0.5)) == [
        (0, "read"),
        (1, "signal 9"),
        (2, "signal 14"),
        (3, "read"),
    ]


# A PNG whose zlib checksum is wrong: it ended the process inside torchvision 0.29.
CRASHED = [
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAEElEQVR4nGNgGAWjYBTAAAADEAAASCsbegAAAABJRU5ErkJggg=="
]


@pytest.mark.parametrize("content", CRASHED)
def test_what_has_crashed_a_decoder(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(base64.b64decode(content))
    with pytest.raises(BrokenImage):
        read_image(tmp_path / "a.png", 3)


def test_a_tiff_of_millions_of_tiles_that_are_not_there_is_no_hang(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    assert dict(fuzz.fuzz("tif", KINDS["tif tiled"](), range(235, 236), 5)) == {235: "broken"}


@pytest.mark.slow
def test_coverage_guided_inputs_let_nothing_escape(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    command = [sys.executable, "benchmarks/fuzz_coverage.py", "--seconds", "10"]
    command += ["--findings", str(tmp_path / "found")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done" in done.stderr
    assert not list((tmp_path / "found").iterdir())
