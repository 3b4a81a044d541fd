"""Images without labels to classes, as CSV."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from fcmae.core.device import pick_device
from fcmae.core.errors import UserError
from fcmae.core.files import AnyPath
from fcmae.data.sources import Spec
from fcmae.finetune.outputs import list_broken, open_all, outputs
from fcmae.finetune.trained import open_network


def predict(
    weights: AnyPath,
    images: Spec,
    out: AnyPath,
    *,
    topk: int = 5,
    batch_size: int = 64,
    workers: int | None = None,
    precision: str = "float32",
    device: str = "auto",
) -> tuple[int, int]:
    """Write the likeliest classes of each image of a folder, row by row while it reads.

    The columns are file, class_1, probability_1, class_2 and so on; of a network that was trained on several
    labels or on numbers, file and one for each of them. Names are written as the bytes that they are. Broken
    files are listed beside the table, in <out>.broken.txt.

    Args:
        weights: run folder or file, see `open_network`
        images: what --data may say, folders of any tree among it; images of any size
        out: CSV file to write
        topk: classes of an image
        batch_size: images of one batch
        workers: processes that read, by default chosen for the device
        precision: float32, bf16 or fp16
        device: see `pick_device`

    Returns:
        images that were classified, and broken ones

    Raises:
        UserError: weights or images that cannot be read, or a file that cannot be written
    """
    weights, out = Path(weights), Path(out)
    network = open_network(weights, pick_device(device))
    classes = network.card.class_names or tuple(str(number) for number in range(network.num_classes))
    kind, topk = network.card.labels, min(topk, len(classes))
    source, broken = open_all(images, network), list_broken(out)
    ranked = [f"{name}_{rank}" for rank in range(1, topk + 1) for name in ("class", "probability")]
    columns = ranked if kind is None else classes
    count = 0
    try:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(["file", *columns])
            for names, logits in outputs(network, source, broken, batch_size, workers, precision):
                cells = _likeliest(logits, classes, topk) if kind is None else _all(logits, kind)
                table.writerows([name, *row] for name, row in zip(names, cells, strict=True))
                count += len(names)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    return count, len(broken)


def _likeliest(logits: Tensor, classes: Sequence[str], topk: int) -> Iterator[list[str]]:
    """Yield the likeliest classes of each image, each with its probability."""
    for values, labels in zip(*(each.tolist() for each in logits.softmax(1).topk(topk)), strict=True):
        pairs = zip(labels, values, strict=True)
        yield [cell for label, value in pairs for cell in (classes[label], f"{value:.4f}")]


def _all(outputs: Tensor, kind: str) -> Iterator[list[str]]:
    """Yield all that is said of each image: the probability of each label, or the numbers."""
    for row in (outputs.sigmoid() if kind == "labels" else outputs).tolist():
        yield [f"{value:.6g}" for value in row]
