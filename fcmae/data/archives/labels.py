"""The classes of images in archives: what their samples say, or else the folders that they lie in."""

import re
from pathlib import Path

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.archives.contents import FOLDER, FOLDERS, LABELS, SAMPLE
from fcmae.data.archives.imagenet import find_val_labels, is_val_archive
from fcmae.data.classes import TRAIN_NAMES, VAL_NAMES, Halves, LabelledFiles, label_files
from fcmae.data.index import ImageIndex
from fcmae.data.parts import ARCHIVE, ARCHIVES

CLASSES_FILE = "classes.txt"  # names of the classes, one a line, where the samples' labels are numbers
MAX_CLASSES = 1_000_000
SYNSET = re.compile(r"n\d{8}")  # WordNet's number of a noun, as ImageNet calls its classes
REMEDY = "give each class a folder in it, or each image a .cls or .json as WebDataset has them"


def find_halves_inside(index: ImageIndex) -> Halves:
    """Take the labels of a list of archives that is in one piece, of which train/ and val/ inside are halves.

    Raises:
        UserError: there are images without a label
    """
    _, folder, pair = _pairs(index)
    steps = [index.notes[FOLDERS][number].split("/") for number in folder]
    depth = _common_depth(steps)
    first = [parts[depth].lower() if len(parts) > depth else "" for parts in steps]
    if {*first} <= {*TRAIN_NAMES, *VAL_NAMES} and {*first} & {*TRAIN_NAMES} and {*first} & {*VAL_NAMES}:
        is_train = np.array([name in TRAIN_NAMES for name in first])[pair]
        halves = (np.flatnonzero(is_train), np.flatnonzero(~is_train))
        train, val = (label_archives(index.select(numbers), depth + 1) for numbers in halves)
        return train, val
    return label_archives(index), None


def label_archives(index: ImageIndex, depth: int | None = None) -> LabelledFiles:
    """Take the labels of the images of archives.

    Args:
        index: as `list_archives` made it
        depth: of the folders that name classes, by default that below which the paths part

    Raises:
        UserError: there are images without a label, or labels that cannot be
    """
    if (index.columns[SAMPLE] >= 0).any():
        return _label_by_sample(index)
    if all(is_val_archive(name) for name, _, _ in index.notes[ARCHIVES]):
        return _label_by_class(index, *find_val_labels(index))
    archive, folder, pair = _pairs(index)
    names = _classes_of_pairs(index, archive, folder, depth)
    classes = sorted(set(names))
    numbers = np.searchsorted(classes, names)
    return _label_by_class(index, classes, numbers[pair])


def _label_by_class(index: ImageIndex, classes: list[str], labels: np.ndarray) -> LabelledFiles:
    """Return a list with labels and without what they were taken from."""
    return label_files(without_origin(index), classes, labels.astype(np.int64))


def without_origin(index: ImageIndex) -> ImageIndex:
    """Return a list as a run keeps it, without what only tells the labels."""
    columns = {name: column for name, column in index.columns.items() if name not in (FOLDER, SAMPLE)}
    notes = {ARCHIVES: index.notes[ARCHIVES]}
    return ImageIndex(index.root, index.names, index.offsets, index.passed_over, columns, notes)


def _label_by_sample(index: ImageIndex) -> LabelledFiles:
    """Take the labels from the samples' .cls or .json: numbers stay as they are, names are sorted."""
    samples, values = index.columns[SAMPLE], index.notes[LABELS]
    if (samples < 0).any():
        missing = int(np.flatnonzero(samples < 0)[0])
        raise UserError(
            f"{index.path(missing)} has no label, as {int((samples < 0).sum())} of the {len(index)} images "
            "there, though others have: give each a .cls or .json"
        )
    used = [values[number] for number in np.unique(samples)]
    if all(isinstance(value, int) for value in used):
        if not 0 <= min(used) <= max(used) < MAX_CLASSES:
            raise UserError(f"{index.root}: labels go from {min(used)} to {max(used)}: begin with 0")
        classes = _read_classes(index.root, max(used) + 1)
        table = np.array([value if isinstance(value, int) else -1 for value in values], np.int64)
    else:
        classes = sorted({str(value) for value in used})
        places = {name: number for number, name in enumerate(classes)}
        table = np.array([places.get(str(value), 0) for value in values], np.int64)
    return _label_by_class(index, classes, table[samples])


def _read_classes(root: Path, count: int) -> list[str]:
    """Return the names of numbered classes: those of a file beside the archives, or else their numbers."""
    file = root / CLASSES_FILE
    if not file.is_file():
        return [str(number) for number in range(count)]
    names = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if len(names) < count or len(set(names)) < len(names):
        raise UserError(
            f"{file} has {len(set(names))} names, and labels go to {count - 1}: give each class a line"
        )
    return names


def _pairs(index: ImageIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return archive and folder of each place that holds images, and of each image its place's number."""
    count = max(1, len(index.notes[FOLDERS]))
    both = index.columns[ARCHIVE].astype(np.int64) * count + index.columns[FOLDER]
    places, pair = np.unique(both, return_inverse=True)
    return places // count, places % count, pair


def _classes_of_pairs(
    index: ImageIndex, archive: np.ndarray, folder: np.ndarray, depth: int | None
) -> list[str]:
    """Return the class of each place: the first folder in which paths differ, or else the archive's name."""
    steps = [[step for step in index.notes[FOLDERS][number].split("/") if step] for number in folder]
    if depth is None:
        depth = min(_common_depth(steps), max(0, min(map(len, steps)) - 1))
    inside = {parts[depth].removesuffix(".tar") if len(parts) > depth else "" for parts in steps}
    archives = [Path(index.notes[ARCHIVES][number][0]).stem for number in archive]
    if len(inside) == 1 and _are_classes(set(archives)):
        return archives
    if "" in inside:
        place = next(i for i, parts in enumerate(steps) if len(parts) <= depth)
        where = index.root / index.notes[ARCHIVES][archive[place]][0]
        raise UserError(f"{where} holds images without a label: {REMEDY}")
    return [parts[depth].removesuffix(".tar") for parts in steps]


def _common_depth(steps: list[list[str]]) -> int:
    """Return how many first folders all paths share."""
    return next(
        (i for i, names in enumerate(zip(*steps, strict=False)) if len({*names}) > 1), min(map(len, steps))
    )


def _are_classes(stems: set[str]) -> bool:
    """Tell whether archives are called by their classes, and not by number, as shards are."""
    if all(SYNSET.fullmatch(stem) for stem in stems):
        return True
    return len(stems) > 1 and len({re.sub(r"\d+", "", stem) for stem in stems}) == len(stems)
