"""Small archives for tests: of pictures, of samples with labels, and of archives."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(number: int, side: int = 20, kind: str = "JPEG") -> bytes:
    """Return a small picture that tells its number by its colour."""
    pixels = np.full((side, side + 4, 3), [number * 37 % 256, number * 91 % 256, number * 13 % 256], np.uint8)
    pixels[: side // 2, : number % side] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> bytes:
    """Write an archive of files by name; return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path.read_bytes()


def write_shard(path: Path, first: int, labels: list[int | str], label_in: str = "cls") -> None:
    """Write a shard of WebDataset's samples, each a picture with its label."""
    files = {}
    for number, label in enumerate(labels, start=first):
        files[f"{number:06d}.jpg"] = picture(number)
        text = json.dumps({"caption": "x", "label": label}) if label_in == "json" else str(label)
        files[f"{number:06d}.{label_in}"] = text.encode()
    write_tar(path, files)


def write_imagenet(folder: Path, classes: int = 4, train_images: int = 6, val_images: int = 12) -> list[int]:
    """Write ImageNet's official downloads, small: the archives of images and the devkit.

    The devkit numbers classes in another order than that of their names, as the real one does.

    Returns:
        the label of each validation image, a number in the order of the classes' names
    """
    synsets = [f"n{1440764 + 1001 * i:08d}" for i in range(classes)]
    inner = {}
    for i, synset in enumerate(synsets):
        files = {f"{synset}_{j}.JPEG": picture(i * train_images + j) for j in range(train_images)}
        inner[f"{synset}.tar"] = write_tar(folder / "inner.tar", files)
    (folder / "inner.tar").unlink()
    write_tar(folder / "ILSVRC2012_img_train.tar", inner)
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(val_images)]
    write_tar(folder / "ILSVRC2012_img_val.tar", {name: picture(100 + i) for i, name in enumerate(names)})
    write_tar(folder / "ILSVRC2012_img_test_v10102019.tar", {"ILSVRC2012_test_00000001.JPEG": picture(7)})
    numbers = {synset: classes - i for i, synset in enumerate(synsets)}  # the last in order is number 1
    labels = [i * 3 % classes for i in range(val_images)]
    table = np.zeros(classes + 1, [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    table[:] = [
        *((number, synset, "words") for synset, number in numbers.items()),
        (classes + 1, "n00001740", "all"),
    ]
    meta = io.BytesIO()
    savemat(meta, {"synsets": table})
    truth = "".join(f"{numbers[synsets[label]]}\n" for label in labels)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, data in (
            ("meta.mat", meta.getvalue()),
            ("ILSVRC2012_validation_ground_truth.txt", truth.encode()),
        ):
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/data/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return labels
