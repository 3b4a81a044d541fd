"""What does a list of 14.2 million images cost: in time to the first batch, and in memory of all processes?

    python benchmarks/index.py [--images 14197122] [--classes 21841] [--ranks 2] [--workers 2]

Makes the list of a tree as large as ImageNet-22K, with all of its folders and the few files that a first
batch reads. Times what is done with lists, with the memory that each needs beside the list. Then starts a
pre-training from the cached list of the folder, and resumes it, each in a new process: seconds from the start
of Python to the first batch. Last, as many processes as `--ranks` read batches at once, each with workers:
how much of the list's memory they share. Needs 4 GB of memory and 3 GB of disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from PIL import Image
from rich.console import Console
from rich.table import Table

from fcmae.data.classes import split_by_class
from fcmae.data.dataset import ImageDataset
from fcmae.data.images import FolderSource
from fcmae.data.index import ImageIndex, _write_cache
from fcmae.data.loader import Loader
from fcmae.data.sampler import StepSampler
from fcmae.data.transforms import RandomCropFlip
from fcmae.engine.run_folder import RunFolder
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.prepare import prepare
from fcmae.pretraining.quality import hold_out
from fcmae.pretraining.task import PretrainTask

BATCH = 64
READY = "ready "  # begins the line in which a process tells what it measured


def main() -> None:
    """Make the list, measure, print."""
    options = read_options()
    if options.child:
        CHILDREN[options.child](Path(options.folder), options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        root = Path(scratch) / "images"
        index = make_index(root, options.images, options.classes)
        make_files(index)
        index.save(Path(scratch) / "list.npz")
        size = (index.names.nbytes + index.offsets.nbytes) / 1e6
        print(
            f"{len(index):,} images in {options.classes:,} folders, {size:.0f} MB",
            describe(torch.device("cpu")),
        )
        del index
        Console(width=100).print(time_operations(Path(scratch) / "list.npz", options.classes))
        for name in ("start", "resume"):
            [told] = run_children("first-batch", root, options, 1)
            print(
                f"{name} to first batch: {told['seconds']:.1f} s ({told['busy']:.1f} s of the CPU), "
                f"{told['own']:.0f} MB of its own"
            )
        readers = run_children("reader", Path(scratch) / "list.npz", options, options.ranks)
        processes = options.ranks * (1 + options.workers)
        shared, held = sum(each["shared"] for each in readers), sum(each["held"] for each in readers)
        print(
            f"{processes} processes see {held:.0f} MB of the list, which takes {shared:.0f} MB once for all"
        )


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=14_197_122)
    parser.add_argument("--classes", type=int, default=21_841)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_index(root: Path, images: int, classes: int) -> ImageIndex:
    """The list of names such as n00000003/n00000003_0000123.JPEG, equally many of each class."""
    number = np.arange(images)
    label = number * classes // images
    names = np.empty((images, 32), np.uint8)
    names[:] = np.frombuffer(b"n00000000/n00000000_0000000.JPEG", np.uint8)
    for first, digits, values in ((1, 8, label), (11, 8, label), (20, 7, number)):
        for place in range(digits):
            names[:, first + place] += (values // 10 ** (digits - 1 - place) % 10).astype(np.uint8)
    return ImageIndex(root, names.reshape(-1), np.arange(images + 1, dtype=np.int64) * names.shape[1])


def make_files(index: ImageIndex) -> None:
    """All folders of a list, the files that a run looks at before its first steps, and the cached list."""
    starts = range(0, len(index), max(1, len(index) // 30_000))
    folders = {index[i].partition("/")[0] + "/": 0 for i in (*starts, len(index) - 1)}
    for folder in folders:
        (index.root / folder).mkdir(parents=True)
    first = index.root / "first.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((500, 400)).save(first)
    images = FolderSource(index, 3)
    trained, _ = hold_out(images, PretrainConfig().count_held_out(len(index)))
    names = {index[i] for i in (*index.spread(32), *index.spread(8))}
    for source in (images, trained):
        for batch in StepSampler(len(source), BATCH, 0, total_steps=16):
            names |= {source.name(i) for _, i in batch}
    for name in names:
        os.link(first, index.root / name)
    first.unlink()
    changed = {folder: (index.root / folder).stat().st_mtime_ns for folder in ("", *folders)}
    _write_cache(index, changed)


def time_operations(file: Path, classes: int) -> Table:
    """Seconds of what is done with a list, and the most memory that it takes meanwhile."""
    index = ImageIndex.load(file)
    labels = np.arange(len(index)) * classes // len(index)
    weights = np.random.default_rng(0).random(len(index), np.float32)
    plain = StepSampler(len(index), BATCH, 0, total_steps=1)
    weighted = StepSampler(len(index), BATCH, 0, total_steps=1, weights=weights)
    kept = split_by_class(labels, 0.2, 0)[0]
    ways: dict[str, Callable[[], object]] = {
        "map it into memory": lambda: ImageIndex.load(file),
        "its digest": index.digest,
        "split 20% of each class": lambda: split_by_class(labels, 0.2, 0),
        "select the other 80%": lambda: index.select(kept),
        "an epoch's order": lambda: plain._order(0),
        "an epoch's order by weights": lambda: weighted._order(0),
        "write it": lambda: index.save(file.with_name("copy.npz")),
    }
    table = Table("operation", "seconds", "of the CPU", "MB meanwhile")
    for name, run in ways.items():
        seconds, busy, memory = measure(run)
        table.add_row(name, f"{seconds:.2f}", f"{busy:.2f}", f"{memory:.0f}")
    return table


def measure(run: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds of a run, those of the CPU, and by how many MB this process's own memory grew at most."""
    before, most, done = anonymous(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.05):
            most = max(most, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, started_cpu = time.perf_counter(), time.process_time()
    result = run()
    seconds, busy = time.perf_counter() - started, time.process_time() - started_cpu
    most = max(most, anonymous())
    done.set()
    watcher.join()
    del result
    return seconds, busy, max(0.0, most - before)


def anonymous() -> float:
    """MB of memory that belongs to this process and to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1e3


def kilobytes(process: int | str, field: str, file: str) -> list[int]:
    """Values of a field of /proc's account of a process's memory, of one mapped file."""
    found, within = [], False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            within = line.endswith(file)
        elif within and words[0] == field:
            found.append(int(words[1]))
    return found


def run_children(kind: str, folder: Path, options: argparse.Namespace, count: int) -> list[dict[str, Any]]:
    """What processes of a kind tell that run at the same time."""
    command = [sys.executable, __file__, "--child", kind, "--folder", str(folder)]
    command += ["--workers", str(options.workers), "--ranks", str(options.ranks)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children: list[Any] = [
        subprocess.Popen([*command, "--rank", str(rank)], **pipes) for rank in range(count)
    ]
    for child in children:  # all have their first batch before any measures, and stay until all have measured
        wait_for(child)
    for child in children:
        child.stdin.write("measure\n")
        child.stdin.flush()
    told = [json.loads(wait_for(child)) for child in children]
    for child in children:
        child.communicate()
    return told


def wait_for(child: Any) -> str:
    """Read what a process writes until it tells something."""
    for line in child.stdout:
        if line.startswith(READY):
            return str(line.removeprefix(READY))
    raise SystemExit("a process ended before its first batch")


def tell(measure: Callable[[], dict[str, float]]) -> None:
    """Say that the first batch is there, wait for the others, tell what is measured, and wait for the end."""
    print(READY, flush=True)
    sys.stdin.readline()
    print(READY + json.dumps(measure()), flush=True)
    sys.stdin.read()


def first_batch(root: Path, options: argparse.Namespace) -> None:
    """Start or resume a pre-training up to its first batch."""
    config = PretrainConfig(data=str(root), batch_size=BATCH, out=str(root.parent / "run"), device="cpu")
    config.images.workers = options.workers
    imported = anonymous()
    run: RunFolder = prepare(config)
    task = PretrainTask(config, run, torch.device("cpu"))
    task.data()
    batches = iter(task.batches(0, 16))
    next(batches)
    measured = {"seconds": seconds_since_start(), "busy": time.process_time(), "own": anonymous() - imported}
    tell(lambda: measured)


def read_batches(file: Path, options: argparse.Namespace) -> None:
    """Be one of several processes that read batches of a list."""
    index = ImageIndex.load(file)
    index.digest()
    dataset = ImageDataset(FolderSource(index, 3), lambda image: image, 0, RandomCropFlip((224, 224)))
    sampler = StepSampler(len(index), BATCH, 0, total_steps=16, rank=options.rank, world=options.ranks)
    batches = iter(Loader(dataset, sampler, options.workers, torch.device("cpu")))
    next(batches)

    def measure_sharing() -> dict[str, float]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        fields = {"shared": "Pss:", "held": "Rss:"}
        return {
            name: sum(sum(kilobytes(process, field, str(file))) for process in ("self", *children)) / 1e3
            for name, field in fields.items()
        }

    tell(measure_sharing)


def seconds_since_start() -> float:
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


CHILDREN = {"first-batch": first_batch, "reader": read_batches}

if __name__ == "__main__":
    main()
