"""What a source holds: sizes, kinds, channels, classes, broken images, duplicates, mean and deviation."""

import io
import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image

from fcmae.core.errors import UserError
from fcmae.data.images import ImageSource, Selection
from fcmae.data.progress_bar import progress
from fcmae.data.statistics import ChannelStatistics, measure_statistics
from fcmae.data.tools.pieces import Piece, Pieces, bytes_of, look_at_each
from fcmae.data.validity import split_validity

SIDE = (224, 224)  # pixels that images are seen at where mean and deviation are measured, as in evaluation
EXAMPLES = 10  # names that are told of each kind of fault


@dataclass
class Findings:
    """What was found, which `summary` turns into plain values.

    Args:
        pieces: the source
        numbers: of each piece, the images that were looked at
        width, height: in pixels, of all images that can be read, as they are shown
        bytes: that the images take
        kinds: how many images there are of each format, mode and number of channels
        broken: name and reason of each image that cannot be read
        copies: groups of names of images whose bytes are the same
        shared: images to measure on that are training images too
        statistics: of each channel
    """

    pieces: Pieces
    numbers: list[np.ndarray]
    width: "array[int]" = field(default_factory=lambda: array("q"))
    height: "array[int]" = field(default_factory=lambda: array("q"))
    bytes: int = 0
    kinds: dict[str, Counter[str]] = field(
        default_factory=lambda: {"formats": Counter(), "modes": Counter(), "channels": Counter()}
    )
    broken: list[tuple[str, str]] = field(default_factory=list)
    copies: list[list[str]] = field(default_factory=list)
    shared: int = 0
    statistics: ChannelStatistics | None = None

    def summary(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        groups = sorted(self.copies, key=len, reverse=True)
        return {
            "images": {piece.name: len(piece.source) for piece in self.pieces.pieces},
            "looked_at": sum(map(len, self.numbers)),
            "bytes": self.bytes,
            "passed_over": _passed_over(self.pieces),
            **{kind: dict(counts.most_common()) for kind, counts in self.kinds.items()},
            "width": _spread(np.array(self.width)),
            "height": _spread(np.array(self.height)),
            "short_side": _spread(np.minimum(self.width, self.height)),
            "classes": _balance(self.pieces),
            "unlabelled": self.pieces.unlabelled,
            "broken": {"count": len(self.broken), "examples": self.broken[:EXAMPLES]},
            "duplicates": {
                "groups": len(groups),
                "needless": sum(len(group) - 1 for group in groups),
                "in_train_and_val": self.shared,
                "examples": [group[:EXAMPLES] for group in groups[:EXAMPLES]],
            },
            "mean": None if self.statistics is None else self.statistics.mean,
            "std": None if self.statistics is None else self.statistics.std,
        }


def inspect(pieces: Pieces, channels: int, sample: int | None, workers: int, doing: str) -> Findings:
    """Read images, and find what there is to know of them.

    Args:
        pieces: the source
        channels: that images are read with
        sample: how many images of each piece to look at, evenly spread; by default all
        workers: processes that read; 0 for none
        doing: what is shown while it goes on

    Raises:
        UserError: the images cannot be read
    """
    numbers = [_spread_numbers(len(piece.source), sample) for piece in pieces.pieces]
    findings = Findings(pieces, numbers)
    digests, look = [], partial(describe, channels=channels)
    with progress(doing, sum(map(len, numbers)), "images") as advance:
        for piece, chosen in zip(pieces.pieces, numbers, strict=True):
            digest = np.zeros(len(chosen), np.uint64)
            for at, seen in enumerate(look_at_each(piece.source, chosen, look, workers)):
                advance(1)
                if seen.reason:
                    findings.broken.append((piece.source.name(seen.number), seen.reason))
                    continue
                told = json.loads(seen.text)
                findings.width.append(told["width"])
                findings.height.append(told["height"])
                findings.bytes += told["bytes"]
                for kind, counts in findings.kinds.items():
                    counts[str(told[kind])] += 1
                digest[at] = int.from_bytes(seen.data, "little")
            digests.append(digest)
    _find_copies(findings, digests)
    if findings.width:
        source = Selection(pieces.pieces[0].source, numbers[0])
        findings.statistics = measure_statistics(source, channels, SIDE, workers=workers)
    return findings


def describe(source: ImageSource, i: int, channels: int) -> tuple[str, bytes]:
    """Return what is known of image i as JSON, and 8 bytes that are those of images of the same bytes alone.

    Args:
        source: the images
        i: number of one
        channels: that it is read with

    Raises:
        BrokenImage: it cannot be read
    """
    image = source.read(i)
    data = bytes_of(source, i)
    count = len(split_validity(image, channels)[0])
    told = {"formats": "array", "modes": "8 bits", "channels": count, "bytes": image.numel()}
    if data is not None:
        told |= {"bytes": len(data), **_read_header(data, source.name(i))}
    told |= {"width": image.shape[2], "height": image.shape[1]}
    content = image.contiguous().numpy().tobytes() if data is None else data
    digest = blake2b(content, digest_size=8).digest()
    return json.dumps(told), digest if any(digest) else bytes(7) + b"\1"


def _read_header(data: bytes, name: str) -> dict[str, Any]:
    """Return format, mode and channels of a file, as it is stored."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            is_deep = picture.format == "PNG" and data[24] == 16 and picture.mode in ("RGB", "RGBA")
            mode = f"{picture.mode} of 16 bits" if is_deep else picture.mode
            return {"formats": picture.format, "modes": mode, "channels": len(picture.getbands())}
    except Exception:  # what Pillow does not know, as a TIFF of 12 channels
        suffix = name.lower().rpartition(".")[2]
    if suffix == "npy":
        array = np.load(io.BytesIO(data), allow_pickle=False)
        return {
            "formats": "npy",
            "modes": str(array.dtype),
            "channels": array.shape[2] if array.ndim > 2 else 1,
        }
    return {"formats": suffix.upper(), "modes": "of several channels"}


def _find_copies(findings: Findings, digests: list[np.ndarray]) -> None:
    """Find images whose bytes are the same, and those that are in both pieces."""
    every = np.concatenate(digests)
    owner = np.repeat(np.arange(len(digests)), [len(each) for each in digests])
    number = np.concatenate(findings.numbers)
    order = np.argsort(every, kind="stable")
    order = order[every[order] > 0]
    starts = np.flatnonzero(np.diff(every[order], prepend=np.uint64(0)))
    ends = np.append(starts[1:], len(order))
    for one in np.flatnonzero(ends - starts > 1):
        group = order[starts[one] : ends[one]]
        sources = [findings.pieces.pieces[owner[at]].source for at in group]
        names = [source.name(int(number[at])) for source, at in zip(sources, group, strict=True)]
        findings.copies.append(names)
        if len(set(owner[group])) > 1:
            findings.shared += int((owner[group] == owner[group].max()).sum())


def _spread_numbers(count: int, sample: int | None) -> np.ndarray:
    """Return the numbers of all images, or of a sample evenly spread over them."""
    if sample is None or sample >= count:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, sample, dtype=np.int64))


def _spread(values: np.ndarray) -> dict[str, int] | None:
    """Return least, median and greatest of numbers."""
    if not len(values):
        return None
    return {"least": int(values.min()), "median": int(np.median(values)), "greatest": int(values.max())}


def _passed_over(pieces: Pieces) -> dict[str, int]:
    """Return how many files are not read, by kind."""
    passed_over: Counter[str] = Counter()
    for piece in pieces.pieces:
        passed_over.update(piece.index.passed_over if piece.index is not None else {})
    return dict(passed_over)


def _balance(pieces: Pieces) -> dict[str, Any] | None:
    """Return how many classes there are, and how many images the largest and the smallest have."""
    if not pieces.classes:
        return None
    told: dict[str, Any] = {"count": len(pieces.classes)}
    for piece in pieces.pieces:
        counts = _count(piece, len(pieces.classes))
        order = np.argsort(-counts, kind="stable")
        largest, smallest = int(order[0]), int(order[-1])
        told[piece.name] = {
            "largest": [pieces.classes[largest], int(counts[largest])],
            "median": int(np.median(counts)),
            "smallest": [pieces.classes[smallest], int(counts[smallest])],
            "without_images": int((counts == 0).sum()),
        }
    return told


def _count(piece: Piece, classes: int) -> np.ndarray:
    """Return the images of each class."""
    if piece.labels is None:
        raise UserError(f"{piece.name} has no labels")
    return np.bincount(piece.labels, minlength=classes)
