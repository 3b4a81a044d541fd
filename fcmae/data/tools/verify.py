"""Whether all images of a source can be read, and packed shards are as they were written."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fcmae.data.images import ImageSource
from fcmae.data.progress_bar import progress
from fcmae.data.tools.journal import JOURNAL, Shard, read_journal
from fcmae.data.tools.pieces import Pieces, look_at_each

THREADS = 8
BLOCK = 1 << 20

Fault = tuple[str, str]
"""What is broken, and why."""


def verify_shards(folder: Path) -> list[Fault]:
    """Compare the shards of a folder with the SHA-256 that was noted when they were packed.

    Args:
        folder: in which `fcmae data pack` wrote; other data have no such notes, and no faults

    Raises:
        UserError: the notes are damaged
    """
    journal = folder / JOURNAL
    if not journal.is_file():
        return []
    _, shards, _ = read_journal(journal)
    faults: list[Fault] = []
    with (
        progress(
            f"Checking {len(shards)} shards", sum(shard.bytes for shard in shards), "GB", 1e9
        ) as advance,
        ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as executor,
    ):
        for shard, fault in zip(
            shards, executor.map(lambda shard: _check(folder, shard), shards), strict=True
        ):
            advance(shard.bytes)
            if fault:
                faults.append((shard.file, fault))
    return faults


def _check(folder: Path, shard: Shard) -> str:
    """Return what is wrong with a shard, or nothing."""
    digest = hashlib.sha256()
    try:
        with (folder / shard.file).open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "" if digest.hexdigest() == shard.sha256 else "is not as it was packed: its SHA-256 differs"


def verify_images(pieces: Pieces, workers: int, doing: str) -> list[Fault]:
    """Decode all images; return those that cannot be read.

    Args:
        pieces: the source
        workers: processes that read; 0 for none
        doing: what is shown while it goes on
    """
    faults: list[Fault] = []
    with progress(doing, sum(len(piece.source) for piece in pieces.pieces), "images") as advance:
        for piece in pieces.pieces:
            for seen in look_at_each(piece.source, np.arange(len(piece.source)), read_only, workers):
                advance(1)
                if seen.reason:
                    faults.append((piece.source.name(seen.number), seen.reason))
    return faults


def read_only(source: ImageSource, i: int) -> tuple[str, bytes]:
    """Decode image i, and return nothing of it."""
    source.read(i)
    return "", b""
