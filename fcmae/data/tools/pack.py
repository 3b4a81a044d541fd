"""Packing images into shards of tar as WebDataset has them: smaller, checksummed, and resumed after a kill.

Beside the shards lie pack.jsonl, with a line and a SHA-256 for each that is finished; classes.txt; index.npz,
the list of all images, so that nothing need be listed again; and broken.txt.
"""

import hashlib
import re
import tarfile
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fcmae.core.files import TEMPORARY_SUFFIX, write_atomically
from fcmae.data.archives.contents import INDEX_FILE, list_archives
from fcmae.data.archives.labels import CLASSES_FILE
from fcmae.data.broken import BrokenList
from fcmae.data.progress_bar import Advance, progress
from fcmae.data.tools.encode import Encoder
from fcmae.data.tools.journal import Journal, Shard
from fcmae.data.tools.pieces import VAL, Piece, Pieces, Seen, look_at_each

BROKEN_FILE = "broken.txt"
BLOCK = 512
LONGEST = 80  # characters of a class or a file that become part of a name


def pack(
    pieces: Pieces, out: Path, encoder: Encoder, shard_bytes: int, workers: int, doing: str
) -> list[Shard]:
    """Write shards until all images are packed; go on with those that are there, whatever ended the last try.

    Images to train on are shuffled, always in the same way, as readers of shards in sequence need it; those
    to measure on keep their order. Each is a member CLASS/NUMBER-NAME.jpg, and its label is
    CLASS/NUMBER-NAME.cls. The same images and options make the same bytes, however often it was killed.

    Args:
        pieces: the images
        out: folder, made where it is missing
        encoder: makes the bytes of each
        shard_bytes: after which a shard is full
        workers: processes that read and write images; 0 for none
        doing: what is shown while it goes on

    Returns:
        all shards

    Raises:
        UserError: the folder holds something else, or what was packed otherwise or of other images
    """
    settings = {
        **asdict(encoder),
        "shard_bytes": shard_bytes,
        "images": {piece.name: len(piece.source) for piece in pieces.pieces},
        "digest": _digest(pieces),
    }
    with Journal(out, settings) as journal:
        (out / INDEX_FILE).unlink(missing_ok=True)
        _write_classes(out / CLASSES_FILE, pieces.classes)
        total = sum(len(piece.source) for piece in pieces.pieces)
        with progress(doing, total, "images") as advance:
            advance(sum(shard.end - shard.first for shard in journal.shards))
            for piece in pieces.pieces:
                _pack_piece(piece, pieces.classes, journal, encoder, shard_bytes, workers, advance)
        for draft in out.glob("*" + TEMPORARY_SUFFIX):
            draft.unlink()
        _write_broken(out / BROKEN_FILE, journal.shards)
        list_archives(out, sorted(shard.file for shard in journal.shards)).save(out / INDEX_FILE)
        return journal.shards


def _digest(pieces: Pieces) -> str:
    """Return what tells these images from others, by their names."""
    digest = hashlib.sha256()
    for piece in pieces.pieces:
        if piece.index is not None:
            digest.update(piece.index.digest().encode())
        if piece.labels is not None:
            digest.update(piece.labels.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _write_classes(path: Path, classes: list[str]) -> None:
    """Write the names of the classes, one a line."""
    if classes:
        with write_atomically(path) as file:
            file.write(
                "".join(" ".join(name.splitlines()) + "\n" for name in classes).encode(errors="replace")
            )


def _write_broken(path: Path, shards: list[Shard]) -> None:
    """Write the images that were left out, as runs list theirs; nothing where there are none."""
    path.unlink(missing_ok=True)
    broken = BrokenList(path)
    broken.add_names([each for shard in shards for each in shard.broken])


def _pack_piece(
    piece: Piece,
    classes: list[str],
    journal: Journal,
    encoder: Encoder,
    shard_bytes: int,
    workers: int,
    advance: Advance,
) -> None:
    """Write the shards of one piece that are missing."""
    order = np.arange(len(piece.source))
    if piece.name != VAL:
        order = np.random.default_rng(0).permutation(order)
    mine = [shard for shard in journal.shards if shard.piece == piece.name]
    at = mine[-1].end if mine else 0
    seen = look_at_each(piece.source, order[at:], encoder, workers)
    number = len(mine)
    for first in seen:
        name, begin, images = f"{piece.name}-{number:06d}.tar", at, 0
        broken: list[tuple[str, str]] = []
        with write_atomically(journal.folder / name) as file:
            shard = _Shard(file)
            for image in chain([first], seen):
                if image.reason:
                    broken.append((piece.source.name(image.number), image.reason))
                else:
                    shard.add(*_named(piece, classes, image, at), image.data)
                    images += 1
                at += 1
                advance(1)
                if shard.bytes >= shard_bytes:
                    break
            shard.end()
        journal.add(Shard(name, piece.name, begin, at, images, shard.bytes, shard.digest.hexdigest(), broken))
        number += 1


def _named(piece: Piece, classes: list[str], image: Seen, at: int) -> tuple[str, str, int | None]:
    """Return the key of an image's sample, its suffix and its label."""
    stem = Path(piece.source.name(image.number)).stem
    key = f"{at:08d}-{_plain(stem)}"
    if piece.labels is None:
        return key, image.text, None
    label = int(piece.labels[image.number])
    return f"{_plain(classes[label])}/{key}", image.text, label


def _plain(name: str) -> str:
    """Return a name of letters, digits, - and _, for a dot would end a sample's key."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:LONGEST] or "_"


class _Shard:
    """A tar archive that is being written, and the SHA-256 of what is written.

    Args:
        file: open for writing, empty
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.digest = file, 0, hashlib.sha256()

    def add(self, key: str, suffix: str, label: int | None, data: bytes) -> None:
        """Write a sample: an image, and its label if there is one."""
        self._add(key + suffix, data)
        if label is not None:
            self._add(key + ".cls", str(label).encode())

    def end(self) -> None:
        """Write what ends an archive."""
        self._write(bytes(2 * BLOCK))

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._write(member.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.bytes += len(data)
