"""Metrics of a network on labelled images, each image counted once.

Shapes: B batch, K classes, labels or numbers, C channels, H W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.core.distributed import gather_lists, sum_over_processes
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


class LabelScores:
    """What is said of several labels: all probabilities and labels, of which the average precision is made.

    Args:
        num_classes: K
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.said: list[Tensor] = []
        self.true: list[Tensor] = []

    @property
    def images(self) -> Tensor:
        """How many were counted."""
        return torch.tensor(sum(map(len, self.said)))

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch: outputs (B, K) and labels (B, K)."""
        self.said.append(outputs.float().cpu())
        self.true.append(labels.float().cpu())

    def gather(self) -> None:
        """Put together what all processes have counted, in each of them."""
        self.said, self.true = gather_lists(self.said), gather_lists(self.true)

    def metrics(self) -> dict[str, float]:
        """Return map, the mean average precision in percent over labels that some image has, and val_loss."""
        from sklearn.metrics import average_precision_score

        said, true = torch.cat(self.said), torch.cat(self.true)
        present = true.any(0).nonzero()[:, 0].tolist()
        precisions = [average_precision_score(true[:, k].numpy(), said[:, k].numpy()) for k in present]
        loss = F.binary_cross_entropy_with_logits(said.double(), true.double())
        mean = sum(precisions) / len(precisions) if precisions else 0.0
        return {"map": 100 * float(mean), "val_loss": float(loss)}


class NumberScores(LabelScores):
    """What is said of numbers."""

    def metrics(self) -> dict[str, float]:
        """Return means over the numbers: mae and rmse, as they count, r2, and val_loss, the squared error."""
        said, true = torch.cat(self.said).double(), torch.cat(self.true).double()
        squared = (said - true).square().mean(0)
        spread = true.var(0, correction=0).clamp(min=1e-12)
        return {
            "mae": float((said - true).abs().mean()),
            "rmse": float(squared.sqrt().mean()),
            "r2": float((1 - squared / spread).mean()),
            "val_loss": float(squared.mean()),
        }


def measure(
    predict: Callable[[Tensor], Tensor],
    data: Labelled,
    reader: EvaluationReader,
    *,
    confusion: bool = False,
    broken: BrokenList | None = None,
) -> Scores | LabelScores:
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
    scores: Scores | LabelScores
    if data.kind == "class":
        scores = Scores(len(data.classes), reader.device, confusion)
    else:
        scores = (LabelScores if data.kind == "labels" else NumberScores)(len(data.classes))
    for batch in reader.read_once(data.source):
        if broken is not None:
            broken.add(data.source, batch.broken)
        labels = data.labels[batch.keep(batch.source_index)]
        scores.add(batch.keep(predict(batch.images)), labels.to(reader.device))
    scores.gather()
    if not scores.images.any():
        raise UserError(f"none of the {len(data.labels)} images to measure on can be read")
    return scores
