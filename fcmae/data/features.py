"""Features of labelled images under a frozen network, from all processes of a run, and k-NN on them.

Shapes: B batch, C channels, H W pixels, N images, D features.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.core.distributed import gather_lists
from fcmae.core.errors import UserError
from fcmae.data.classes import split_by_class
from fcmae.data.evaluation import EvaluationReader
from fcmae.data.images import Labelled

Features = tuple[np.ndarray, np.ndarray]
"""Features (N, D) and labels (N,)."""

CHUNK = 256  # images whose neighbours are sought at a time: more similarities would fill the memory


def require_classes(data: Labelled) -> None:
    """Refuse labels that k-NN and a linear classifier cannot guess.

    Raises:
        UserError: they are several of an image, or numbers
    """
    if data.kind != "class":
        raise UserError(
            f"frozen features are measured by single classes, not by {data.kind}: give such images"
        )


@torch.no_grad()
def extract_features(
    encode: Callable[[Tensor], Tensor], data: Labelled, reader: EvaluationReader, limit: int | None = None
) -> Features:
    """Compute the features of the readable images, the same in every process, in the order of the source.

    Args:
        encode: normalised images (B, C, H, W) to features (B, D)
        data: images and labels
        reader: prepares the images
        limit: about how many images to take at most, the same fraction of each class; by default all

    Returns:
        features float32 (N, D) and labels (N,)
    """
    require_classes(data)
    if limit is not None and limit < len(data.labels):
        labels, fraction = data.labels.numpy(), limit / len(data.labels)
        data = data.select(split_by_class(labels, fraction, seed=0, take_singles=True)[1])
    indices, features = [], []
    for batch in reader.read_once(data.source):
        indices.append(batch.keep(batch.source_index))
        features.append(batch.keep(encode(batch.images).float()).cpu())
    found, index = torch.cat(gather_lists(features)), torch.cat(gather_lists(indices))
    order = index.argsort()
    return found[order].numpy(), data.labels[index[order]].numpy()


def knn_accuracy(train: Features, val: Features, neighbors: int = 20, temperature: float = 0.07) -> float:
    """Let the nearest training images by cosine similarity vote, and return the top-1 accuracy in percent.

    Each votes for its class with exp(similarity / temperature), as in Wu et al. (arXiv 1805.01978) and DINO.

    Args:
        train: features and labels to look among
        val: features and labels to find
        neighbors: how many vote
        temperature: the lower, the more the nearest count
    """
    known, labels = (torch.from_numpy(array) for array in train)
    sought, truth = (torch.from_numpy(array) for array in val)
    known, correct = F.normalize(known.float()), 0
    for chunk, expected in zip(F.normalize(sought.float()).split(CHUNK), truth.split(CHUNK), strict=True):
        similarity, nearest = (chunk @ known.T).topk(min(neighbors, len(known)))
        weights = (similarity / temperature).exp()
        scores = torch.zeros(len(chunk), int(labels.max()) + 1).scatter_add_(1, labels[nearest], weights)
        correct += int((scores.argmax(1) == expected).sum())
    return 100 * correct / len(truth)
