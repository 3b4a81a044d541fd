"""Images without labels to features, as npz or Parquet.

Shapes: N images, D features of an image.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from fcmae.core.device import pick_device
from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically
from fcmae.data.sources import Spec
from fcmae.finetune.outputs import list_broken, open_all, outputs
from fcmae.finetune.trained import open_network


def embed(
    weights: Path,
    images: Spec,
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
        images: what --data may say, folders of any tree among it; images of any size
        out: file to write, see `save_features`
        batch_size: images of one batch
        workers: processes that read, by default chosen for the device
        precision: float32, bf16 or fp16
        device: see `pick_device`

    Returns:
        images that were read, and broken ones, which are listed in <out>.broken.txt

    Raises:
        UserError: weights or images that cannot be read, or a file that cannot be written
    """
    network = open_network(weights, pick_device(device), head=False)
    source, broken = open_all(images, network), list_broken(out)
    names: list[str] = []
    features: list[np.ndarray] = []
    for some, values in outputs(network, source, broken, batch_size, workers, precision):
        names += some
        features.append(values.cpu().numpy())
    try:
        with write_atomically(out) as file:
            save_features(file, out.suffix, names, np.concatenate(features))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    return len(names), len(broken)


def save_features(file: BinaryIO, suffix: str, names: list[str], features: np.ndarray) -> None:
    """Write features and the names of their images.

    Args:
        file: open for writing
        suffix: .npz for the arrays `features` and `files`, .parquet for a table with columns of these names,
            in which an image's features are a list, and what is not UTF-8 in a name is a question mark
        names: of N images
        features: float32 (N, D)
    """
    if suffix == ".npz":
        np.savez(file, features=features, files=np.array(names))
        return
    import pyarrow
    from pyarrow import parquet

    rows = pyarrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
    files = [name.encode("utf-8", "replace").decode() for name in names]
    parquet.write_table(pyarrow.table({"files": files, "features": rows}), file)
