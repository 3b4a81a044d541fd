"""Labels of image files, as their folders tell them, and images to train on and to measure on."""

import io
import logging
import os
import time
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex
from fcmae.data.parts import read_part
from fcmae.data.scan import check_folder
from fcmae.data.suffixes import find_format

logger = logging.getLogger(__name__)
# Folders of splits, in whatever case; also after "seg_", as in the Intel scenes.
TRAIN_NAMES = ("train", "training", "trn", "seg_train")
VAL_NAMES = ("val", "valid", "validation", "test", "testing", "seg_val", "seg_test")
RARE_VAL_NAMES = ("eval", "dev")  # which may as well be classes, but beside a training folder
SHOWN = 5  # classes that an error message lists
LABEL, CLASSES, KIND = "label", "classes", "kind"  # column and notes of a list whose paths tell no labels
Kind = Literal["class", "labels", "numbers"]
"""What is known of an image: its one class, which of several labels it has, or numbers."""


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with labels.

    Args:
        index: the list of files; it holds the labels, too, where paths do not tell them
        classes: names of the classes, of the labels or of the numbers
        labels: int64 (number of images,), numbers of the classes; of several labels uint8 (number of images,
            number of labels), 0 or 1; of numbers float32, likewise
        kind: which of these it is
    """

    index: ImageIndex
    classes: list[str]
    labels: np.ndarray
    kind: Kind = "class"

    @classmethod
    def read(cls, index: ImageIndex) -> "LabelledFiles":
        """Take the labels that a list holds, or else those that the first folder of each path names.

        The order of such a list keeps a class together, so that each takes one bisection.

        Raises:
            UserError: an image lies in no class's folder
        """
        if LABEL in index.columns:
            kind = index.notes.get(KIND, "class")
            return cls(index, list(index.notes[CLASSES]), index.columns[LABEL], kind)
        classes: list[str] = []
        ends = [0]
        while ends[-1] < len(index):
            path = index[ends[-1]]
            name, slash, _ = path.partition("/")
            if not slash:
                raise UserError(f"{index.root / path} lies in no class's folder: give each class a folder")
            classes.append(name)
            ends.append(bisect_right(index, name, lo=ends[-1], key=_class_name))
        return cls(index, classes, np.repeat(np.arange(len(classes)), np.diff(ends)))

    def select(self, numbers: np.ndarray) -> "LabelledFiles":
        """Return some of the images, by number, in the order of the list; the classes stay."""
        numbers = np.sort(numbers)
        return LabelledFiles(self.index.select(numbers), self.classes, self.labels[numbers], self.kind)

    def renumber(self, classes: list[str]) -> "LabelledFiles":
        """Return the same images with their classes' numbers in another list, which has them all."""
        if classes == self.classes:
            return self
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[name] for name in self.classes], np.int64)[self.labels]
        if LABEL in self.index.columns:
            return label_files(self.index, classes, labels)
        return LabelledFiles(self.index, classes, labels)

    def check_readable(self, seconds: float = 1.0) -> None:
        """Decode images of each class until one can be read, for as many classes as the time allows.

        Args:
            seconds: begin no further class after this time

        Raises:
            UserError: no image of a class can be read
        """
        deadline = time.monotonic() + seconds
        order = np.argsort(self.labels, kind="stable")
        starts = np.searchsorted(self.labels, np.arange(len(self.classes) + 1), sorter=order).tolist()
        for name, start, end in zip(self.classes, starts, starts[1:], strict=False):
            if time.monotonic() > deadline:
                return
            members = order[start:end].tolist()
            if members and not any(_is_readable(self.index, i) for i in members):
                raise UserError(
                    f"{self.index.path(members[0]).parent}: none of the {end - start} images of class {name} "
                    "can be read; mend or remove them"
                )


def label_files(
    index: ImageIndex, classes: list[str], labels: np.ndarray, kind: Kind = "class"
) -> LabelledFiles:
    """Return a list of files with labels that the list itself holds from now on.

    Args:
        index: the list
        classes, labels, kind: see `LabelledFiles`
    """
    columns, notes = {**index.columns, LABEL: labels}, {**index.notes, CLASSES: classes, KIND: kind}
    held = ImageIndex(index.root, index.names, index.offsets, index.passed_over, columns, notes)
    return LabelledFiles(held, classes, labels, kind)


Halves = tuple[LabelledFiles, LabelledFiles | None]
"""Images to train on and to measure on; None instead of the latter where some of the former are kept."""


def find_halves(root: str | Path) -> Halves:
    """List the images of train/ and val/, or Training/ and Testing/ and so on, else of one tree.

    Args:
        root: holds the folders of the splits, or those of the classes

    Raises:
        UserError: no such folder, one split without the other, an image outside the classes' folders
    """
    root = Path(root).expanduser()
    check_folder(root)
    train, val = find_splits(root)
    if (train is None) != (val is None):
        raise UserError(
            f"{root} has {(train or val or root).name}/ but not the other half: add "
            f"{'val' if train else 'train'}/, or give a folder with one folder for each class"
        )
    trained = LabelledFiles.read(ImageIndex.scan(train or root))
    return trained, None if val is None else LabelledFiles.read(ImageIndex.scan(val))


def divide(halves: Halves, val_fraction: float, seed: int) -> tuple[LabelledFiles, LabelledFiles]:
    """Return training and validation images of the same list of classes, checked.

    Args:
        halves: of which the second may be missing
        val_fraction: fraction of each class that is then kept for validation
        seed: of that split

    Raises:
        UserError: a single class, a class to measure that is not trained on, a class whose images are all
            broken, classes of one image each
    """
    train, val = halves
    if train.kind != "class":
        if val is None:
            kept, taken = split_images(train.labels, train.kind, val_fraction, seed)
            train, val = train.select(kept), train.select(taken)
        return train, val
    _check_several(train)
    train.check_readable()
    if val is not None:
        _check_same_classes(train, val)
        val.check_readable()
        return train, val.renumber(train.classes)
    kept, taken = split_by_class(train.labels, val_fraction, seed)
    train, val = train.select(kept), train.select(taken)
    _check_val_images(val)
    return train, val


def find_classes(root: str | Path, val_fraction: float, seed: int) -> tuple[LabelledFiles, LabelledFiles]:
    """List the training and validation images of a folder; see `find_halves` and `divide`."""
    return divide(find_halves(root), val_fraction, seed)


def find_val_classes(root: str | Path) -> LabelledFiles:
    """List the images to measure on: those of val/ (or test/) where there is one, else of the whole tree.

    Raises:
        UserError: no such folder, no image, or an image outside the classes' folders
    """
    root = Path(root).expanduser()
    check_folder(root)
    return LabelledFiles.read(ImageIndex.scan(find_splits(root)[1] or root))


def split_images(
    labels: np.ndarray, kind: Kind, fraction: float, seed: int, *, take_singles: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Take a fraction of the images: of each class, where each has one, else of all.

    Args:
        labels, kind: see `LabelledFiles`
        fraction, seed, take_singles: see `split_by_class`

    Returns:
        numbers of the images that stay and of those that are taken, int64, ascending
    """
    if kind == "class":
        return split_by_class(labels, fraction, seed, take_singles=take_singles)
    order = np.random.default_rng(seed).permutation(len(labels))
    count = min(max(1, round(fraction * len(labels))), max(len(labels) - 1, 1))
    return np.sort(order[count:]), np.sort(order[:count])


def split_by_class(
    labels: np.ndarray, fraction: float, seed: int, *, take_singles: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Take a fraction of each class: at least one image of a class, and never all of them.

    Args:
        labels: int64 (N,) of N images
        fraction: to take, between 0 and 1
        seed: the same seed takes the same images
        take_singles: whether the image of a class that has one only is taken; otherwise it stays

    Returns:
        numbers of the images that stay and of those that are taken, int64, ascending
    """
    generator = np.random.default_rng(seed)
    by_class = np.argsort(labels, kind="stable")
    taken = []
    for members in np.split(by_class, np.flatnonzero(np.diff(labels[by_class])) + 1):
        count = min(max(1, round(fraction * len(members))), len(members) - 1) or int(take_singles)
        taken.append(generator.permutation(members)[:count])
    chosen = np.zeros(len(labels), bool)
    chosen[np.concatenate(taken)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _class_name(path: str) -> str:
    """Return the first folder of a path."""
    return path.partition("/")[0]


def find_splits(root: Path) -> tuple[Path | None, Path | None]:
    """Return the folders of the training and of the validation images below root, where there are such."""
    train = _subfolder(root, TRAIN_NAMES)
    return train, _subfolder(root, VAL_NAMES if train is None else (*VAL_NAMES, *RARE_VAL_NAMES))


def find_held_out(index: ImageIndex) -> dict[str, tuple[int, int]]:
    """Find what a tree keeps for measuring: the images of val/ and test/, by whatever name, beside train/.

    Args:
        index: of a scanned folder

    Returns:
        for each such folder the number of its first image and that after its last; nothing without a train/
    """
    of_splits = [
        name
        for name in sorted(os.listdir(index.root))
        if name.lower() in (*TRAIN_NAMES, *VAL_NAMES, *RARE_VAL_NAMES) and (index.root / name).is_dir()
    ]
    found = [name for name in of_splits if name.lower() not in TRAIN_NAMES]
    if len(found) == len(of_splits):
        return {}
    ranges = {
        name: (bisect_left(index, name, key=_class_name), bisect_right(index, name, key=_class_name))
        for name in found
    }
    return {name: ends for name, ends in ranges.items() if ends != (0, len(index)) and ends[0] < ends[1]}


def _subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first folder below root that has one of these names, in whatever case.

    Where it holds nothing but a folder of its own name, as archives are unpacked, it is that one.
    """
    folders = {name.lower(): name for name in sorted(os.listdir(root), reverse=True)}
    places = (root / folders[name] for name in names if name in folders)
    found = next((place for place in places if place.is_dir()), None)
    if found is not None and os.listdir(found) == [found.name]:
        return found / found.name
    return found


def _is_readable(index: ImageIndex, number: int) -> bool:
    """Tell whether an image decodes; what Pillow may know nothing of is given the benefit of the doubt."""
    path = index.path(number)
    try:
        content = read_part(index, number)
        if find_format(path).may_be_deep:
            return bool(content) if content is not None else path.stat().st_size > 0
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            image.load()
        return True
    except Exception:  # damaged files make decoders raise nearly anything
        return False


def _check_several(data: LabelledFiles) -> None:
    """Refuse a single class."""
    if len(data.classes) < 2:
        raise UserError(
            f"{data.index.root} has one class only ({data.classes[0]}): training on labels needs two or more "
            "folders, one for each class"
        )


def _check_same_classes(train: LabelledFiles, val: LabelledFiles) -> None:
    """Refuse classes that are not trained on; warn of those that are not measured."""
    unknown = sorted(set(val.classes) - set(train.classes))
    if unknown:
        raise UserError(
            f"{train.index.root} has no image of {len(unknown)} of the {len(val.classes)} classes of "
            f"{val.index.root} ({some(unknown)}): what is measured has to be trained on"
        )
    missing = sorted(set(train.classes) - set(val.classes))
    if missing and current_world().is_rank_zero:
        logger.warning(
            "%s has no image of %d of the %d classes of %s (%s): they are trained on, but not measured",
            val.index.root,
            len(missing),
            len(train.classes),
            train.index.root,
            some(missing),
        )


def _check_val_images(val: LabelledFiles) -> None:
    """Warn of classes of a tree that have one image only, which is trained on; refuse a tree of no others."""
    if not len(val.labels):
        raise UserError(f"{val.index.root} has one image of each class: measuring needs two of some class")
    missing = np.setdiff1d(np.arange(len(val.classes)), val.labels)
    if len(missing) and current_world().is_rank_zero:
        logger.warning(
            "%s: %d of the %d classes have one image only (%s), which is trained on; they are not measured",
            val.index.root,
            len(missing),
            len(val.classes),
            some([val.classes[i] for i in missing]),
        )


def some(names: list[str]) -> str:
    """Return the first few names for a message, with commas between them."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
