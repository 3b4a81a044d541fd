"""Using a trained network on images without labels: classes as CSV, features as npz or Parquet.

Shapes: B batch, N images, D features of an image.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from fcmae.core.device import pick_device
from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically
from fcmae.data.broken import BrokenList
from fcmae.data.images import FolderSource
from fcmae.data.index import ImageIndex
from fcmae.engine.precision import autocast
from fcmae.finetune.network import Trained, open_network


def predict(
    weights: Path,
    images: Path,
    out: Path,
    *,
    topk: int = 5,
    batch_size: int = 64,
    workers: int | None = None,
    precision: str = "float32",
    device: str = "auto",
) -> tuple[int, int]:
    """Write the likeliest classes of each image of a folder, row by row while it reads.

    The columns are file, class_1, probability_1, class_2 and so on; names are written as the bytes that they
    are. Broken files are listed beside the table, in <out>.broken.txt.

    Args:
        weights: run folder or file, see `open_network`
        images: folder of images, any tree and any size
        out: CSV file to write
        topk: classes of an image
        batch_size: images of one batch
        workers: processes that read; none chooses
        precision: float32, bf16 or fp16
        device: see `pick_device`

    Returns:
        images that were classified, and broken ones

    Raises:
        UserError: weights or images that cannot be read, or a file that cannot be written
    """
    network = open_network(weights, pick_device(device))
    classes = network.card.class_names or [str(number) for number in range(network.num_classes)]
    topk = min(topk, len(classes))
    source = FolderSource(ImageIndex.scan(images), network.card.in_chans, network.card.value_range)
    broken = BrokenList(fresh(out.with_name(out.name + ".broken.txt")))
    columns = [f"{name}_{rank}" for rank in range(1, topk + 1) for name in ("class", "probability")]
    count = 0
    try:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(["file", *columns])
            for numbers, logits in outputs(network, source, broken, batch_size, workers, precision):
                found = logits.softmax(1).topk(topk)
                for number, shares, places in zip(numbers, *map(Tensor.tolist, found), strict=True):
                    pairs = zip(places, shares, strict=True)
                    cells = [cell for place, share in pairs for cell in (classes[place], f"{share:.4f}")]
                    table.writerow([source.name(number), *cells])
                count += len(numbers)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    return count, len(broken)


def embed(
    weights: Path,
    images: Path,
    out: Path,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    precision: str = "float32",
    device: str = "auto",
) -> tuple[int, int]:
    """Write the features of each image of a folder, with its name.

    Features are the last stage's, averaged over positions and normalised: what the head is given.

    Args:
        weights: run folder or file, a bare encoder's too
        images, batch_size, workers, precision, device: see `predict`
        out: file to write, see `save_features`

    Returns:
        images that were read, and broken ones, which are listed in <out>.broken.txt

    Raises:
        UserError: see `predict`
    """
    network = open_network(weights, pick_device(device), head=False)
    source = FolderSource(ImageIndex.scan(images), network.card.in_chans, network.card.value_range)
    broken = BrokenList(fresh(out.with_name(out.name + ".broken.txt")))
    names: list[str] = []
    features: list[np.ndarray] = []
    for numbers, values in outputs(network, source, broken, batch_size, workers, precision):
        names += [source.name(number) for number in numbers]
        features.append(values.cpu().numpy())
    try:
        with write_atomically(out) as file:
            save_features(file, out.suffix, names, np.concatenate(features))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    return len(names), len(broken)


def save_features(file: BinaryIO, suffix: str, names: list[str], features: np.ndarray) -> None:
    """Write features float32 (N, D) and the names of their N images.

    Args:
        suffix: .npz for the arrays `features` and `files`, .parquet for a table with columns of these names,
            in which an image's features are a list, and what is not UTF-8 in a name is a question mark
    """
    if suffix == ".npz":
        np.savez(file, features=features, files=np.array(names))
        return
    import pyarrow
    from pyarrow import parquet

    rows = pyarrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
    files = [name.encode("utf-8", "replace").decode() for name in names]
    parquet.write_table(pyarrow.table({"files": files, "features": rows}), file)


@torch.inference_mode()
def outputs(
    network: Trained,
    source: FolderSource,
    broken: BrokenList,
    batch_size: int,
    workers: int | None,
    precision: str,
) -> Iterator[tuple[list[int], Tensor]]:
    """The numbers of readable images, batch by batch, and what the network gives for them: float32 (B, D).

    Raises:
        UserError: no image can be read
    """
    source.check()
    device = next(network.model.parameters()).device
    for view in network.reader(batch_size, workers, device).read_once(source):
        broken.add(source, view.broken)
        with autocast(precision, device):
            values = network.model(view.images)
        yield view.kept_numbers().tolist(), view.keep(values.float())


def fresh(path: Path) -> Path:
    """A path that holds nothing of a former call."""
    path.unlink(missing_ok=True)
    return path
