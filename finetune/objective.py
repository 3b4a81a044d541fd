"""What a network learns to say of an image: its class, which of several labels it has, or numbers.

Shapes: B batch, N images, K classes, labels or numbers.
"""

import logging
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.core.errors import UserError
from fcmae.data.images import Labelled
from fcmae.finetune.config import FinetuneConfig

logger = logging.getLogger(__name__)
SINGLE = ("top1", "top5", "mean_class")  # metrics of single classes


class Objective(ABC):
    """The loss of a kind of labels, and the metrics by which it is judged.

    Args:
        data: images to train on, with their labels
        config: resolved
    """

    metrics: ClassVar[tuple[str, ...]]  # the first stands in for top1

    def __init__(self, data: Labelled, config: FinetuneConfig) -> None:
        self.smoothing = config.augment.label_smoothing

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the images of what they cost.

        Args:
            logits: float32 (B, K)
            targets: labels of the B images, as the data has them
        """

    def best(self, wanted: str) -> str:
        """Return the metric that chooses the weights to keep: this one, or this kind's own in place of top1.

        Raises:
            UserError: it is not measured of these labels
        """
        prefix, name = ("ema_", wanted[4:]) if wanted.startswith("ema_") else ("", wanted)
        if name in SINGLE and name not in self.metrics:
            return prefix + self.metrics[0]
        if name not in (*self.metrics, "val_loss", "loss"):
            raise UserError(f"best {wanted!r} is not measured here: choose {', '.join(self.metrics)}")
        return wanted

    def to_units(self, outputs: Tensor) -> Tensor:
        """Return outputs (B, K) of the network in training as the labels count."""
        return outputs

    def finish(self, head: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights whose outputs are as the labels count.

        Args:
            head: name of the layer that ends the network
            state: of the network
        """
        return state


class Classes(Objective):
    """One class an image: cross-entropy with label smoothing and perhaps class weights.

    Args:
        weights: of the K classes
    """

    metrics = SINGLE

    def __init__(self, data: Labelled, config: FinetuneConfig, weights: Tensor | None) -> None:
        super().__init__(data, config)
        self.weights = weights

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = 0.0 if targets.is_floating_point() else self.smoothing  # mixed targets are smooth already
        return F.cross_entropy(logits, targets, self.weights, reduction="sum", label_smoothing=smoothing)


class SeveralLabels(Objective):
    """Labels that are there or not: binary cross-entropy, its mean over the labels."""

    metrics = ("map",)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        smooth = targets.float() * (1 - self.smoothing) + self.smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1).sum()


class Numbers(Objective):
    """Numbers: the squared error, in standard deviations of what is trained on, its mean over the numbers."""

    metrics = ("mae", "rmse", "r2")

    def __init__(self, data: Labelled, config: FinetuneConfig) -> None:
        super().__init__(data, config)
        labels = data.labels.double()
        self.mean = labels.mean(0).float()
        self.std = labels.std(0, correction=0).clamp(min=1e-12).float()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        wanted = (targets - self.mean.to(targets)) / self.std.to(targets)
        return F.mse_loss(logits, wanted, reduction="none").mean(1).sum()

    def to_units(self, outputs: Tensor) -> Tensor:
        return outputs * self.std.to(outputs) + self.mean.to(outputs)

    def finish(self, head: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
        weight, bias = state[f"{head}.weight"], state[f"{head}.bias"]
        std, mean = self.std.to(weight), self.mean.to(weight)
        return {**state, f"{head}.weight": weight * std[:, None], f"{head}.bias": bias * std + mean}


def make_objective(data: Labelled, config: FinetuneConfig, weights: Tensor | None) -> Objective:
    """Return the objective of the labels; what is for single classes only is told to be off for others.

    Args:
        data: images to train on, with their labels
        config: resolved
        weights: of the classes in the loss, if any
    """
    if data.kind == "class":
        return Classes(data, config, weights)
    off = {"balance": config.balance != "none", "mixup and CutMix": config.augment.mixes}
    for name in (name for name, is_on in off.items() if is_on):
        logger.warning("%s: for single classes only, and off for these labels", name)
    return (SeveralLabels if data.kind == "labels" else Numbers)(data, config)


def best_direction(name: str) -> Literal["min", "max"]:
    """Tell whether a low or a high value of a metric is good."""
    return "min" if name.endswith(("loss", "mae", "rmse")) else "max"


def head_of(model: nn.Module) -> str:
    """Return the name of the layer that ends a network of ours or of timm's."""
    head = model.get_classifier()  # type: ignore[operator]
    return str(next(name for name, module in model.named_modules() if module is head))
