"""Damage each file of a short pre-training and a short fine-tuning in many ways, half the way and at the end.

    python tests/reliability/damage.py [--kinds pretrain] [--flips N] [--sample N] [--seed S]

Each file that the run keeps is emptied, cut in the middle, overwritten with noise or zeros, given bytes that
are no text and lines that are no records, replaced by a folder, deleted, and has single bits flipped. The
same command has to end as a run that nothing disturbed, bit for bit, or in a line that names what is wrong,
without a traceback; and once the file is brought back it has to get to that end, too: nothing else was lost.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from fcmae.models.card import CHECKPOINTS
from tests.reliability.instants import NEVER, Instants, Kill
from tests.reliability.small_runs import KINDS, argv_of, difference, end_of, import_all, in_child, make_data

REMADE = {"curves.png", "reconstructions.png", "schedule.png"}  # pictures, whose bytes nobody reads
NO_RECORDS = (
    b'\xff\xfe\0\n[1]\n"text"\n{"loss": 1}\n{"step": "one", "loss": 2}\n{"step": 1, "loss": "high"}\n'
)


def cut(content: bytes) -> bytes:
    """Return the first half."""
    return content[: len(content) // 2]


def noise(content: bytes) -> bytes:
    """Return as many random bytes."""
    return random.Random(len(content)).randbytes(len(content))


WAYS: dict[str, Callable[[bytes], bytes | None]] = {
    "emptied": lambda content: b"",
    "cut": cut,
    "noise": noise,
    "no records": lambda content: content + NO_RECORDS,
    "zeros": lambda content: bytes(len(content)),
    "a folder": lambda content: None,
}


# Of what has been, and not of what is to do.
RECORDS = ("log.jsonl", "broken_images.txt", "broken_val_images.txt")


class Damage:
    """What came of damage to the files of one kind of run.

    Args:
        kind: pretrain or finetune
        root: a folder with the data, to work in
        seed: of the flipped bits
    """

    def __init__(self, kind: str, root: Path, seed: int) -> None:
        self.kind, self.root, self.random = kind, root, random.Random(seed)
        self.folders = {"end": root / f"{kind}-whole", "half": root / f"{kind}-half"}
        self.run(self.folders["end"], NEVER)
        self.whole = end_of(self.folders["end"] / "run")
        lines = (self.folders["end"] / "instants.txt").read_text().splitlines()
        last = max(
            number for number, line in enumerate(lines, 1) if "broken_images" in line or "log.jsonl" in line
        )
        if self.run(self.folders["half"], last // 2) != -signal.SIGKILL:
            raise SystemExit((self.folders["half"] / "output.txt").read_text())

    def run(self, folder: Path, kill_at: int) -> int:
        """Start, or go on with, the run in a folder; return the exit status."""
        folder.mkdir(exist_ok=True)
        (folder / "output.txt").unlink(missing_ok=True)
        instants = Instants(folder / "run", kill_at, folder / "instants.txt", Kill())
        return in_child(argv_of(self.kind, self.root, folder / "run"), folder, instants.watch)

    def files(self, when: str) -> list[str]:
        """Return the files of the run, half the way or at the end."""
        run = self.folders[when] / "run"
        return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())

    def survive(self, when: str, name: str, damage: Callable[[bytes], bytes | None] | None) -> str:
        """Damage a file, or delete it, and go on; return what is wrong with what comes of it, if anything."""
        folder = self.root / f"{self.kind}-damaged"
        shutil.copytree(self.folders[when], folder, symlinks=True)
        path = folder / "run" / name
        content = path.read_bytes()
        damaged = None if damage is None else damage(content)
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        elif damage is not None:
            path.mkdir()
        status = self.run(folder, NEVER)
        said = (folder / "output.txt").read_text(errors="replace")
        wrong = ""
        if status not in (0, 2) or "Traceback" in said:
            wrong = f"ended with status {status}: {said[-2000:]}"
        elif status and said.count("fcmae: error: ") != 1:
            wrong = f"did not say what is wrong in a line: {said}"
        if status == 2 and not wrong:
            remove(path)
            path.write_bytes(content)
            status = self.run(folder, NEVER)
        if not wrong and status:
            wrong = f"did not go on once it was mended: {(folder / 'output.txt').read_text()[-2000:]}"
        if not wrong:
            if path.parent.name == CHECKPOINTS and self.is_spare(when, path.name):
                remove(path)
                path.write_bytes(content)
            wrong = difference(folder / "run", self.whole)
            if name in RECORDS and set(wrong.split(", ")) <= {"epochs", "files", name}:
                wrong = ""  # nothing else holds them
        shutil.rmtree(folder)
        return wrong

    def is_spare(self, when: str, name: str) -> bool:
        """Return whether a run has no need of a checkpoint, and so does not make it again."""
        newest = max(name for name in self.whole["states"] if name.startswith("step_"))
        return name == "best.pt" or (when == "end" and name != newest)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def flip(bit: int) -> Callable[[bytes], bytes]:
    """Return what flips a bit of a file, counted in parts of its length."""

    def flipped(content: bytes) -> bytes:
        changed = bytearray(content)
        if changed:
            changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        return bytes(changed)

    return flipped


def sweep(kinds: list[str], flips: int, sample: int | None, seed: int) -> int:
    """Try all damage, print what came of it; return how much was not survived."""
    import_all()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_data(root)
        for kind in kinds:
            damage, started = Damage(kind, root, seed), time.monotonic()
            bits = [damage.random.randrange(10**9) for _ in range(flips)]
            ways = {**WAYS, "deleted": None, **{f"bit {bit} flipped": flip(bit) for bit in bits}}
            tries = [
                (when, file, way)
                for when in damage.folders
                for file in damage.files(when)
                for way in ways
                if Path(file).name not in REMADE or way == "a folder"
            ]
            if sample is not None:
                tries = random.Random(seed).sample(tries, sample)
            for when, file, way in tries:
                wrong = damage.survive(when, file, ways[way])
                failed += bool(wrong)
                if wrong:
                    print(f"{kind}, {when}: {file} {way}: {wrong}", flush=True)
            seconds = time.monotonic() - started
            print(f"{kind}: {len(tries)} damaged files, {seconds:.0f} s", flush=True)
    print(f"{failed} not survived")
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--flips", type=int, default=5, help="how many bits of each file")
    parser.add_argument("--sample", type=int, help="how many of each kind, by default all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(sweep(options.kinds, options.flips, options.sample, options.seed) > 0)
