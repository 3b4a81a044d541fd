"""Features of labelled images under a frozen network, from all processes of a run, and k-NN on them.

Shapes: B batch, C channels, H W pixels, N images, D features.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fcmae.core.distributed import gather_lists
from fcmae.data.classes import split_by_class
from fcmae.data.images import Labelled
from fcmae.data.once import Reader

Features = tuple[np.ndarray, np.ndarray]
"""Features (N, D) and labels (N,)."""

CHUNK = 256  # images whose neighbours are sought at a time: more similarities would fill the memory


@torch.no_grad()
def extract_features(
    encode: Callable[[Tensor], Tensor], data: Labelled, reader: Reader, limit: int | None = None
) -> Features:
    """Features float32 (N, D) and labels (N,) of the readable images, the same in every process.

    Args:
        encode: normalised images (B, C, H, W) to features (B, D)
        data: images and labels
        reader: prepares the images
        limit: about how many images to take at most, in equal shares of each class
    """
    if limit is not None and limit < len(data.labels):
        labels, share = data.labels.numpy(), limit / len(data.labels)
        data = data.select(split_by_class(labels, share, seed=0, take_singles=True)[1])
    numbers, features = [], []
    for view in reader.read_once(data.source):
        numbers.append(view.kept_numbers())
        features.append(view.keep(encode(view.images).float()).cpu())
    found, order = torch.cat(gather_lists(features)), torch.cat(gather_lists(numbers))
    by_number = order.argsort()
    return found[by_number].numpy(), data.labels[order[by_number]].numpy()


def knn_accuracy(train: Features, val: Features, neighbors: int = 20, temperature: float = 0.07) -> float:
    """Top-1 in percent of a vote of the nearest training images by cosine similarity.

    Each votes for its class with exp(similarity / temperature), as in Wu et al. (arXiv 1805.01978) and DINO.

    Args:
        train: features and labels to look among
        val: features and labels to find
        neighbors: how many vote
        temperature: how much more the nearer count
    """
    known, labels = (torch.from_numpy(array) for array in train)
    sought, truth = (torch.from_numpy(array) for array in val)
    known, right = F.normalize(known.float()), 0
    for part, expected in zip(F.normalize(sought.float()).split(CHUNK), truth.split(CHUNK), strict=True):
        similarity, nearest = (part @ known.T).topk(min(neighbors, len(known)))
        weights = (similarity / temperature).exp()
        scores = torch.zeros(len(part), int(labels.max()) + 1).scatter_add_(1, labels[nearest], weights)
        right += int((scores.argmax(1) == expected).sum())
    return 100 * right / len(truth)
