"""Labels from folders: one folder of images for each class, in one tree or in train/ and val/."""

import logging
import os
import time
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex, check_folder
from fcmae.data.suffixes import find_format

logger = logging.getLogger(__name__)
# Folders of splits, in whatever case; also after "seg_", as in the Intel scenes.
TRAIN_NAMES = ("train", "training", "trn", "seg_train")
VAL_NAMES = ("val", "valid", "validation", "test", "testing", "seg_val", "seg_test")
RARE_VAL_NAMES = ("eval", "dev")  # which may as well be classes, but beside a training folder
SHOWN = 5  # classes that an error message lists


@dataclass(frozen=True)
class ClassFolders:
    """Images with labels.

    Args:
        index: the list of files; the first folder of a path names the class
        classes: names of the classes, sorted
        labels: int64 (number of images,), numbers of the classes
    """

    index: ImageIndex
    classes: list[str]
    labels: np.ndarray

    @classmethod
    def read(cls, index: ImageIndex, known: list[str] | None = None) -> "ClassFolders":
        """Take labels from the paths of a list, whose order keeps a class together: one bisection a class.

        Args:
            index: the list
            known: all classes, sorted, where some have no image in the list; by default those that have

        Raises:
            UserError: an image lies in no class's folder
        """
        classes: list[str] = []
        ends = [0]
        while ends[-1] < len(index):
            path = index[ends[-1]]
            name, slash, _ = path.partition("/")
            if not slash:
                raise UserError(f"{index.root / path} lies in no class's folder: give each class a folder")
            classes.append(name)
            ends.append(bisect_right(index, name, lo=ends[-1], key=_class_name))
        known = classes if known is None else known
        return cls(index, known, np.repeat(np.searchsorted(known, classes), np.diff(ends)))

    def select(self, numbers: np.ndarray) -> "ClassFolders":
        """Return some of the images, by number, in the order of the list; the classes stay."""
        numbers = np.sort(numbers)
        return ClassFolders(self.index.select(numbers), self.classes, self.labels[numbers])

    def check_readable(self, seconds: float = 1.0) -> None:
        """Decode images of each class until one can be read, for as many classes as the time allows.

        Args:
            seconds: begin no further class after this time

        Raises:
            UserError: no image of a class can be read
        """
        deadline = time.monotonic() + seconds
        starts = np.searchsorted(self.labels, np.arange(len(self.classes) + 1)).tolist()
        for name, start, end in zip(self.classes, starts, starts[1:], strict=False):
            if time.monotonic() > deadline:
                return
            if start < end and not any(_is_readable(self.index.path(i)) for i in range(start, end)):
                raise UserError(
                    f"{self.index.root / name}: none of the {end - start} images of this class can be read; "
                    "mend or remove the folder"
                )


def find_classes(root: str | Path, val_fraction: float, seed: int) -> tuple[ClassFolders, ClassFolders]:
    """List training and validation images: of train/ and val/ where they are, else of one tree, in two parts.

    Args:
        root: holds train/ and val/ (or Training/ and Testing/ and so on), or the folders of the classes
        val_fraction: fraction of each class of a single tree that is kept for validation
        seed: of that split

    Raises:
        UserError: no such folder, a single class, a class to measure that is not trained on, a class whose
            images are all broken, classes of one image each
    """
    root = Path(root).expanduser()
    check_folder(root)
    train_folder, val_folder = _find_splits(root)
    if train_folder and val_folder:
        train, val = (ClassFolders.read(ImageIndex.scan(path)) for path in (train_folder, val_folder))
        _check_several(train)
        _check_same_classes(train, val)
        val = ClassFolders.read(val.index, train.classes)
        train.check_readable()
        val.check_readable()
    elif train_folder or val_folder:
        raise UserError(
            f"{root} has {(train_folder or val_folder or root).name}/ but not the other half: add "
            f"{'val' if train_folder else 'train'}/, or give a folder with one folder for each class"
        )
    else:
        both = ClassFolders.read(ImageIndex.scan(root))
        _check_several(both)
        both.check_readable()
        kept, taken = split_by_class(both.labels, val_fraction, seed)
        train, val = both.select(kept), both.select(taken)
        _check_val_images(val)
    return train, val


def find_val_classes(root: str | Path) -> ClassFolders:
    """List the images to measure on: those of val/ (or test/) where there is one, else of the whole tree.

    Raises:
        UserError: no such folder, no image, or an image outside the classes' folders
    """
    root = Path(root).expanduser()
    check_folder(root)
    return ClassFolders.read(ImageIndex.scan(_find_splits(root)[1] or root))


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
    chosen = np.sort(np.concatenate(taken))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _class_name(path: str) -> str:
    """Return the first folder of a path."""
    return path.partition("/")[0]


def _find_splits(root: Path) -> tuple[Path | None, Path | None]:
    """Return the folders of the training and of the validation images below root, where there are such."""
    train = _subfolder(root, TRAIN_NAMES)
    return train, _subfolder(root, VAL_NAMES if train is None else (*VAL_NAMES, *RARE_VAL_NAMES))


def _subfolder(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first folder below root that has one of these names, in whatever case.

    Where it holds nothing but a folder of its own name, as archives are unpacked, it is that one.
    """
    folders = {name.lower(): root / name for name in sorted(os.listdir(root), reverse=True)}
    found = next((folders[name] for name in names if name in folders and folders[name].is_dir()), None)
    if found is not None and os.listdir(found) == [found.name]:
        return found / found.name
    return found


def _is_readable(path: Path) -> bool:
    """Tell whether an image decodes; what Pillow may know nothing of is given the benefit of the doubt."""
    try:
        if find_format(path).may_be_deep:
            return path.stat().st_size > 0
        with Image.open(path) as image:
            image.load()
        return True
    except Exception:  # damaged files make decoders raise nearly anything
        return False


def _check_several(data: ClassFolders) -> None:
    """Refuse a single class."""
    if len(data.classes) < 2:
        raise UserError(
            f"{data.index.root} has one class only ({data.classes[0]}): training on labels needs two or more "
            "folders, one for each class"
        )


def _check_same_classes(train: ClassFolders, val: ClassFolders) -> None:
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


def _check_val_images(val: ClassFolders) -> None:
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
