"""The training and validation images of a run, from its settings."""

import numpy as np

from fcmae.data.classes import split_images
from fcmae.data.images import Labelled
from fcmae.data.index import load_lists
from fcmae.data.sources import SourceOptions, open_splits
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig


def open_data(config: FinetuneConfig, run: RunFolder) -> tuple[Labelled, Labelled]:
    """Open the images to train on and those to measure on.

    Args:
        config: resolved
        run: the folder of the run, which holds the lists of images where they come from a folder

    Raises:
        UserError: the data cannot be read
    """
    options = SourceOptions(
        config.in_chans,
        config.size[0],
        config.images.value_range,
        config.data_root,
        config.val_fraction,
        config.seed,
        load_lists(run.train_images, run.val_images),
        config.images.no_data,
    )
    train, val = open_splits(config.data, options)
    if config.train_fraction < 1:
        labels, fraction = train.labels.numpy(), config.train_fraction
        _, taken = split_images(labels, train.kind, fraction, config.seed, take_singles=True)
        train = train.select(taken)
    return train, val


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return a weight for each class, (K,), inverse to its frequency: 0 where it has no image.

    Over the images, the mean of the weights of their classes is 1.

    Args:
        labels: integers (number of images,)
        num_classes: K
    """
    counts = np.bincount(labels, minlength=num_classes)
    weights: np.ndarray = (counts > 0) * len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return weights
