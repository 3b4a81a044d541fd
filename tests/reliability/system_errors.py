"""Have the disk fail a short pre-training and a short fine-tuning whenever they are at a file, in turn.

    python tests/reliability/system_errors.py [--faults EIO ...] [--kinds pretrain] [--sample N]

A run that was killed half the way goes on, and from one of its instants on every call about its folder fails:
EIO of a disk or its connection, ESTALE of a file server that was restarted, EROFS of a file system that is
mounted read-only, ENOSPC of a full disk, EDQUOT of a quota; or the folder is deleted. Reading counts.
It has to end in a line that says so, without a traceback, with status 1 where the error may pass, and a
cluster so tries again, and 2 where it does not. The same command then gets to the end of a run that nothing
disturbed, bit for bit.
"""

import argparse
import errno
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.reliability.instants import NEVER, Deletion, DiskError, Instants, Kill
from tests.reliability.small_runs import KINDS, argv_of, difference, end_of, import_all, in_child, make_data

STATUS = {"EIO": 1, "ESTALE": 1, "EROFS": 2, "ENOSPC": 2, "EDQUOT": 2, "deleted": 2}


class Sweep:
    """What came of one fault at the instants of a run that goes on from its middle.

    Args:
        kind: pretrain or finetune
        root: a folder with the data, to work in
        fault: a key of `STATUS`
    """

    def __init__(self, kind: str, root: Path, fault: str) -> None:
        self.kind, self.root, self.fault = kind, root, fault
        whole, self.half = root / f"{kind}-whole", root / f"{kind}-half"
        if not whole.exists():
            self.run(whole, NEVER, Kill())
            instants = len((whole / "instants.txt").read_text().splitlines())
            if self.run(self.half, instants // 2, Kill()) != -signal.SIGKILL:
                raise SystemExit((self.half / "output.txt").read_text())
        self.whole = end_of(whole / "run")
        folder = self.copy("count")
        self.run(folder, NEVER, self.make_fault(folder))
        self.instants = (folder / "instants.txt").read_text().splitlines()
        shutil.rmtree(folder)

    def make_fault(self, folder: Path) -> Kill:
        """Return the fault for the run in a folder."""
        return Deletion(folder / "run") if self.fault == "deleted" else DiskError(getattr(errno, self.fault))

    def copy(self, name: str) -> Path:
        """Return a folder with the run that was killed half the way."""
        folder = self.root / f"{self.kind}-{name}"
        shutil.copytree(self.half, folder, symlinks=True)
        (folder / "output.txt").unlink()
        return folder

    def run(self, folder: Path, strike_at: int, fault: Kill) -> int:
        """Start, or go on with, the run in a folder; return the exit status."""
        folder.mkdir(exist_ok=True)
        instants = Instants(folder / "run", strike_at, folder / "instants.txt", fault)
        status = in_child(argv_of(self.kind, self.root, folder / "run"), folder, instants.watch)
        os.close(instants.listed)
        return status

    def survive(self, number: int) -> str:
        """Strike at an instant, from 1; return what is wrong with the end, if anything."""
        folder = self.copy(str(number))
        status = self.run(folder, number, self.make_fault(folder))
        said = (folder / "output.txt").read_text()
        if status not in (0, STATUS[self.fault]) or "Traceback" in said:
            return f"ended with status {status}: {said[-3000:]}"
        if status and said.count("fcmae: error: ") != 1:
            return f"did not say what is wrong in a line: {said}"
        status = self.run(folder, NEVER, Kill())
        if status:
            return f"did not go on: {(folder / 'output.txt').read_text()[-3000:]}"
        wrong = difference(folder / "run", self.whole)
        shutil.rmtree(folder)
        return f"differs in {wrong}" if wrong else ""


def few_alike(instants: list[str], sample: int | None, seed: int) -> list[int]:
    """Number the instants, of those with the same words the first and the last, or a sample of these."""
    first = {instant: number for number, instant in reversed(list(enumerate(instants, 1)))}
    last = {instant: number for number, instant in enumerate(instants, 1)}
    numbers = sorted({*first.values(), *last.values()})
    return (
        numbers if sample is None else sorted(random.Random(seed).sample(numbers, min(sample, len(numbers))))
    )


def sweep(kinds: list[str], faults: list[str], sample: int | None, seed: int) -> int:
    """Try the faults, print what came of them; return how many were not survived."""
    import_all()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_data(root)
        for kind in kinds:
            for fault in faults:
                each, started = Sweep(kind, root, fault), time.monotonic()
                numbers = few_alike(each.instants, sample, seed)
                for number in numbers:
                    wrong = each.survive(number)
                    failed += bool(wrong)
                    if wrong:
                        print(f"{kind} {fault} at {each.instants[number - 1]}: {wrong}", flush=True)
                seconds = time.monotonic() - started
                print(f"{kind}: {fault} at {len(numbers)} instants, {seconds:.0f} s", flush=True)
    print(f"{failed} not survived")
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--faults", nargs="+", choices=STATUS, default=list(STATUS))
    parser.add_argument("--sample", type=int, help="how many instants of each kind and fault, by default all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(sweep(options.kinds, options.faults, options.sample, options.seed) > 0)
