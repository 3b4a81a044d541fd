"""Features of labelled images under a frozen network, from all processes of a run.

Shapes: B batch, C channels, H W pixels, N images, D features.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fcmae.data.classes import split_by_class
from fcmae.data.labelled import Labelled
from fcmae.data.once import Reader
from fcmae.engine.distributed import gather_lists


@torch.no_grad()
def extract_features(
    encode: Callable[[Tensor], Tensor], data: Labelled, reader: Reader, limit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
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
