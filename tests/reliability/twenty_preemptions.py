"""Preempt a run on a real cluster again and again: it has to end with the weights of one left alone.

    python tests/reliability/twenty_preemptions.py [--count N] [--partitions low instant]

The cluster is the small one of two machines that tests use, with partitions whose jobs give way: `low` after
a signal, and `instant` without one. The signal is in turns what the job asked for, SIGUSR2, as on sites with
preempt_send_user_signal, and SIGTERM, as SLURM does by itself. A run in each partition has two processes, on
two machines; so has the run that they are compared with, which is no job of the cluster.
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.launch.cluster.on_slurm import (
    PATIENCE,
    cancel_all,
    ended,
    final_weights,
    note,
    output,
    preempt,
    preempt_by,
    steps,
    submit,
    until,
    write_recipe,
)

STEPS_AT_LEAST = 15  # of a start, before it is preempted
EPOCHS_AT_ONCE = 3  # that a start hardly gets through before it is preempted
NAME = "%j $HOME 'by' "  # of a run, before the partition: what a shell or SLURM might misread


def survive(folder: Path, count: int, partitions: list[str], epochs: int | None = None) -> None:
    """Preempt a run in each partition, and compare how they end.

    Args:
        folder: where to work
        count: how often each run is preempted
        partitions: their names
        epochs: of each run, by default more than will be done when the last preemption comes

    Raises:
        AssertionError: a run does not come back, or ends otherwise
    """
    recipe, epochs = write_recipe(folder), epochs or EPOCHS_AT_ONCE * (count + 1)
    command = ("--", "--config", str(recipe), "--epochs", str(epochs), "--out")
    submit("pretrain", "--cluster", "local", "--tasks-per-node", "2", *command, str(folder / "whole"))
    runs = [folder / f"{NAME}{partition}" for partition in partitions]
    for run, partition in zip(runs, partitions, strict=True):
        submit("pretrain", "--nodes", "2", "--time", "600", "--partition", partition, *command, str(run))
    recipe.write_text("epochs: 1")  # what is edited now does not matter
    for number, signal in zip(range(1, count + 1), itertools.cycle(("user", "term"))):
        preempt_by(signal)
        before = [len(steps(run)) for run in runs]
        for run, logged in zip(runs, before, strict=True):
            until(partial(has_steps, run, logged + STEPS_AT_LEAST), f"{run} makes no steps")
        preempt()
        for run in runs:
            until(partial(has_started, run, number + 1), f"{run} does not start again")
        print(f"{number}, by {signal}, at steps {[len(steps(run)) for run in runs]}", flush=True)
    for run in [folder / "whole", *runs]:
        until(partial(ended, run), f"{run} does not end", PATIENCE + 10 * epochs)
    whole = final_weights(folder / "whole", epochs)
    for run in runs:
        torch.testing.assert_close(final_weights(run, epochs), whole, rtol=0, atol=0)
        assert len(note(run, "done")) == 1, output(run)
        assert not note(run, "failed"), output(run)
        assert "going on after step" in output(run)
        assert "going on after step 0" not in output(run)
        assert steps(run) == steps(folder / "whole") == list(range(1, len(steps(run)) + 1))


def has_steps(run: Path, count: int) -> bool:
    """Return whether a run logged so many steps, or is at its end."""
    return len(steps(run)) >= count


def has_started(run: Path, times: int) -> bool:
    """Return whether the job of a run started so many times."""
    return len(note(run, "started")) >= times


def main() -> None:
    """Preempt as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--partitions", nargs="+", default=["low"])
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as afterwards:
        folder = Path(name).resolve()
        afterwards.callback(preempt_by, "user")
        afterwards.callback(cancel_all, folder)
        survive(folder, options.count, options.partitions, options.epochs)
    runs = " and ".join(options.partitions)
    seconds = time.monotonic() - start
    print(f"{options.count} preemptions of a run in {runs}: the same weights, bit for bit; {seconds:.0f} s")


if __name__ == "__main__":
    main()
