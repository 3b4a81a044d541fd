"""Kill a short pre-training and a short fine-tuning at every instant at which they change a file, in turn.

    python tests/reliability/every_instant.py [--kinds pretrain] [--every-write] [--sample N] [--seed S]

An instant is a write, a rename, a link, an unlink, a making of a folder, or whatever else Python's audit
hooks tell of the run's folder: what they are is found by running, not listed by hand. A write is torn in the
middle. Of many writes into one file in a row, and a checkpoint is hundreds, the first, the last and a random
one are taken, or with --every-write all.
The same command goes on after each kill, is killed once more at a random instant, and goes on again: the end
has to be that of a run that nothing interrupted, weights bit for bit and exported files byte for byte.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.reliability.instants import NEVER, Instants, Kill
from tests.reliability.small_runs import KINDS, argv_of, difference, end_of, import_all, in_child, make_data


class Sweep:
    """The instants of one kind of run, and what came of kills at them.

    Args:
        kind: pretrain or finetune
        root: a folder with the data, to work in
        seed: of the second kills
    """

    def __init__(self, kind: str, root: Path, seed: int) -> None:
        self.kind, self.root, self.random = kind, root, random.Random(seed)
        self.whole_folder = root / f"{kind}-whole"
        if self.run(self.whole_folder, NEVER) != 0:
            raise SystemExit((self.whole_folder / "output.txt").read_text())
        self.whole = end_of(self.whole_folder / "run")
        self.instants = (self.whole_folder / "instants.txt").read_text().splitlines()

    def run(self, folder: Path, kill_at: int) -> int:
        """Start, or go on with, the run in a folder; return the exit status."""
        folder.mkdir(exist_ok=True)
        instants = Instants(folder / "run", kill_at, folder / "instants.txt", Kill())
        status = in_child(argv_of(self.kind, self.root, folder / "run"), folder, instants.watch)
        os.close(instants.listed)
        return status

    def few_of_each_file(self) -> list[int]:
        """Number the instants; of writes into one file in a row take the first, a random one and the last."""
        chosen: list[int] = []
        for _, group in itertools.groupby(enumerate(self.instants, 1), key=lambda each: each[1]):
            numbers = [number for number, _ in group]
            chosen += sorted({numbers[0], self.random.choice(numbers), numbers[-1]})
        return chosen

    def survive(self, number: int) -> str:
        """Kill a run at an instant, from 1, and once more; return what is wrong with its end, if anything."""
        folder = self.root / f"{self.kind}-{number}"
        if self.run(folder, number) != -signal.SIGKILL:
            return "was not killed"
        self.run(folder, self.random.randint(1, len(self.instants)))  # later than its end: it gets there
        status = self.run(folder, NEVER)
        if status != 0:
            return f"ended with status {status}: " + (folder / "output.txt").read_text()[-2000:]
        wrong = difference(folder / "run", self.whole)
        shutil.rmtree(folder)
        return f"differs in {wrong}" if wrong else ""


def sweep(kinds: list[str], every_write: bool, sample: int | None, seed: int) -> int:
    """Kill at all instants, or at some, and print what came of it; return how many were not survived."""
    import_all()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_data(root)
        for kind in kinds:
            each = Sweep(kind, root, seed)
            numbers = list(range(1, len(each.instants) + 1)) if every_write else each.few_of_each_file()
            if sample is not None:
                numbers = sorted(random.Random(seed).sample(numbers, sample))
            started = time.monotonic()
            for number in numbers:
                wrong = each.survive(number)
                failed += bool(wrong)
                if wrong:
                    print(f"{kind} instant {number} ({each.instants[number - 1]}): {wrong}", flush=True)
            seconds = time.monotonic() - started
            print(f"{kind}: killed at {len(numbers)} of {len(each.instants)} instants, {seconds:.0f} s")
    print(f"{failed} not survived")
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--every-write", action="store_true", help="takes hours")
    parser.add_argument("--sample", type=int, help="how many instants of each kind, by default all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.exit(sweep(options.kinds, options.every_write, options.sample, options.seed) > 0)
