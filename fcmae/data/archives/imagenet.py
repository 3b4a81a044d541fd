"""The labels of ImageNet's validation images, whose archive has none: from the devkit or a list beside it."""

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex
from fcmae.data.parts import ARCHIVES

DEVKIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"  # in the devkit's data/
MAX_BYTES = 1 << 26  # of a file in the devkit
_VAL_ARCHIVE = re.compile(r"(.*/)?ILSVRC20\d\d_img_val[^/]*\.tar", re.IGNORECASE)
_IMAGE = re.compile(r"ILSVRC20\d\d_val_(\d{8})", re.IGNORECASE)
_LINE = re.compile(r"(?P<image>[^\s,]+?)(\.\w+)?[\s,]+(?P<label>n\d{8})\b")


def is_val_archive(name: str) -> bool:
    """Tell whether an archive is that of ImageNet's validation images, by its name."""
    return _VAL_ARCHIVE.fullmatch(name) is not None


def find_val_labels(index: ImageIndex) -> tuple[list[str], np.ndarray]:
    """Find the classes of ImageNet's validation images beside their archive.

    The devkit numbers classes in an order of its own, which meta.mat tells; here they are numbered in the
    order of their names, as folders of them are, and as timm and torchvision do. A list names image and class
    on each line, as LOC_val_solution.csv does.

    Args:
        index: the images

    Returns:
        names of all classes, sorted, and the number of each image's, int64 (N,)

    Raises:
        UserError: there is no such file, or it lacks an image
    """
    archive = index.root / index.notes[ARCHIVES][0][0]
    folder = archive.parent
    found = _read_devkit(folder) or _read_lists(folder)
    if found is None:
        raise UserError(
            f"{archive} has no labels in it: put {DEVKIT}.tar.gz, or Kaggle's LOC_val_solution.csv, beside it"
        )
    source, names = found
    try:
        labels = [names[_number_of(index[i])] for i in range(len(index))]
    except KeyError as error:
        raise UserError(f"{source} has no label of image {error.args[0]} of {archive}") from None
    classes = sorted(set(names.values()))
    return classes, np.searchsorted(classes, labels)


def _number_of(path: str) -> int:
    """Return the number of a validation image."""
    found = _IMAGE.search(path.rpartition("/")[2])
    if found is None:
        raise UserError(f"{path} is not called as ImageNet's validation images, ILSVRC2012_val_00000001.JPEG")
    return int(found[1])


def _read_devkit(folder: Path) -> tuple[Path, dict[int, str]] | None:
    """Return the class of each image as the devkit has it, packed or unpacked, if there is one."""
    for place in (folder / f"{DEVKIT}.tar.gz", folder / DEVKIT / "data", folder / DEVKIT, folder):
        files = dict(_files_of(place))
        if GROUND_TRUTH in files and SYNSETS in files:
            synsets = _read_synsets(files[SYNSETS], place)
            numbers = files[GROUND_TRUTH].split()
            with suppress(KeyError, ValueError):
                return place, {image: synsets[int(number)] for image, number in enumerate(numbers, start=1)}
            raise UserError(f"{place}: {GROUND_TRUTH} and {SYNSETS} do not fit together: download it again")
    return None


def _files_of(place: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the two files of the devkit from its archive or a folder, as far as they are there."""
    if place.is_dir():
        for name in (GROUND_TRUTH, SYNSETS):
            with suppress(OSError):
                yield name, (place / name).read_bytes()
    elif place.is_file():
        try:
            with tarfile.open(place) as archive:
                for member in archive:
                    name = member.name.rpartition("/")[2]
                    file = archive.extractfile(member) if member.isfile() else None
                    if file is not None and name in (GROUND_TRUTH, SYNSETS) and member.size <= MAX_BYTES:
                        yield name, file.read()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{place} is damaged ({error}): download it again") from None


def _read_synsets(data: bytes, place: Path) -> dict[int, str]:
    """Return the synset, as n01440764, of each number of the devkit."""
    from scipy.io import loadmat  # comes with scikit-learn

    try:
        synsets = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        numbers = zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True)
        return {int(number): str(name) for number, name in numbers}
    except Exception as error:  # scipy's reader raises nearly anything
        raise UserError(f"{place}: {SYNSETS} cannot be read ({error}): download it again") from None


def _read_lists(folder: Path) -> tuple[Path, dict[int, str]] | None:
    """Return the class of each image from the first file that lists them; nothing where there is none."""
    for path in sorted(folder.glob("*val*")):
        if path.suffix.lower() in (".txt", ".csv", ".tsv") and path.name != GROUND_TRUTH:
            lines = map(_LINE.match, path.read_text(errors="replace").splitlines())
            found = [(_IMAGE.fullmatch(line["image"]), line["label"]) for line in lines if line]
            labels = {int(image[1]): label for image, label in found if image}
            if labels:
                return path, labels
    return None
