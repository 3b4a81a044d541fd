"""The training and validation images of a run, from its settings."""

import numpy as np

from fcmae.data.classes import ClassFolders, split_by_class
from fcmae.data.index import ImageIndex
from fcmae.data.labelled import Labelled, from_folders, open_splits
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig


def open_data(config: FinetuneConfig, run: RunFolder) -> tuple[Labelled, Labelled]:
    """Images to train on and images to measure on.

    Args:
        config: complete
        run: the folder of the run, which holds the lists of images where they come from a folder

    Raises:
        UserError: the data cannot be read
    """
    if run.train_images.exists():
        train_index, val_index = (ImageIndex.load(file) for file in (run.train_images, run.val_images))
        train_list = ClassFolders.read(train_index)
        lists = (train_list, ClassFolders.read(val_index, train_list.classes))
        train, val = (from_folders(each, config.in_chans, config.images.value_range) for each in lists)
    else:
        train, val = open_splits(
            config.data,
            config.in_chans,
            config.size[0],
            data_root=config.data_root,
            val_fraction=config.val_fraction,
            seed=config.seed,
            value_range=config.images.value_range,
        )
    if config.train_fraction < 1:
        labels = train.labels.numpy()
        _, taken = split_by_class(labels, config.train_fraction, config.seed, take_singles=True)
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
