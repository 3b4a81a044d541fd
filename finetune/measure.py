"""Metrics of a classifier on labelled images, each image counted once.

Shapes: B batch, K classes, C channels, H W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.core.distributed import sum_over_processes
from fcmae.core.errors import UserError
from fcmae.data.broken import BrokenList
from fcmae.data.evaluation import EvaluationReader
from fcmae.data.images import Labelled

CONFUSION_CLASSES = 2000  # more would need gigabytes for the matrix


class Scores:
    """Sums from which every metric is made; those of several processes add up.

    Args:
        num_classes: K
        confusion: also count which class is taken for which
        device: where logits come from
    """

    def __init__(self, num_classes: int, device: torch.device, confusion: bool = False) -> None:
        self.num_classes = num_classes
        self.top5 = torch.zeros((), dtype=torch.int64, device=device)
        self.loss = torch.zeros((), dtype=torch.float64, device="cpu" if device.type == "mps" else device)
        self.images = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self.right = torch.zeros(num_classes, dtype=torch.int64, device=device)
        shape = (num_classes, num_classes) if confusion and num_classes <= CONFUSION_CLASSES else (0, 0)
        self.confusion = torch.zeros(shape, dtype=torch.int64, device=device)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (B, K), labels int64 (B,)."""
        logits = logits.float()
        best = logits.topk(min(5, self.num_classes)).indices
        hits = best == labels[:, None]
        self.top5 += hits.any(1).sum()
        self.loss += F.cross_entropy(logits, labels, reduction="sum").to(self.loss)
        self.images += torch.bincount(labels, minlength=self.num_classes)
        self.right += torch.bincount(labels[hits[:, 0]], minlength=self.num_classes)
        if self.confusion.numel():
            pairs = labels * self.num_classes + best[:, 0]
            self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.confusion)

    def gather(self) -> None:
        """Add up the sums of all processes, in each of them."""
        for name in ("top5", "loss", "images", "right", "confusion"):
            setattr(self, name, sum_over_processes(getattr(self, name)))

    def metrics(self) -> dict[str, float]:
        """Return top1, top5 and mean_class (over the classes that have images) in percent, and val_loss."""
        count = int(self.images.sum())
        present = self.images > 0
        return {
            "top1": 100 * int(self.right.sum()) / count,
            "top5": 100 * int(self.top5) / count,
            "mean_class": 100 * float((self.right[present] / self.images[present]).mean()),
            "val_loss": float(self.loss) / count,
        }


def measure(
    predict: Callable[[Tensor], Tensor],
    data: Labelled,
    reader: EvaluationReader,
    *,
    confusion: bool = False,
    broken: BrokenList | None = None,
) -> Scores:
    """Score a classifier on all readable images, those of all processes together.

    Args:
        predict: normalised images (B, C, H, W) to logits (B, K), without gradients
        data: images and labels
        reader: prepares the images
        confusion: also count which class is taken for which
        broken: where to list images that cannot be read

    Raises:
        UserError: no image can be read
    """
    scores = Scores(len(data.classes), reader.device, confusion)
    for batch in reader.read_once(data.source):
        if broken is not None:
            broken.add(data.source, batch.broken)
        labels = data.labels[batch.keep(batch.source_index)]
        scores.add(batch.keep(predict(batch.images)), labels.to(reader.device))
    scores.gather()
    if not scores.images.any():
        raise UserError(f"none of the {len(data.labels)} images to measure on can be read")
    return scores
