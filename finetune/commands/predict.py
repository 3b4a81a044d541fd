"""Images without labels to classes, as CSV."""

import csv
from pathlib import Path

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

    The columns are file, class_1, probability_1, class_2 and so on; names are written as the bytes that they
    are. Broken files are listed beside the table, in <out>.broken.txt.

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
    topk = min(topk, len(classes))
    source, broken = open_all(images, network), list_broken(out)
    columns = [f"{name}_{rank}" for rank in range(1, topk + 1) for name in ("class", "probability")]
    count = 0
    try:
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(["file", *columns])
            for names, logits in outputs(network, source, broken, batch_size, workers, precision):
                likeliest = logits.softmax(1).topk(topk)
                for name, values, labels in zip(names, *(each.tolist() for each in likeliest), strict=True):
                    pairs = zip(labels, values, strict=True)
                    cells = [cell for label, value in pairs for cell in (classes[label], f"{value:.4f}")]
                    table.writerow([name, *cells])
                count += len(names)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    return count, len(broken)
