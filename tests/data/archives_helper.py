"""Small archives for tests: of pictures, of samples with labels, and of archives."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


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
