"""The training and validation images of a run, from its settings."""

import numpy as np

from fcmae.data.classes import ClassFolders, split_by_class
from fcmae.data.config import DIGITS
from fcmae.data.index import ImageIndex
from fcmae.data.labelled import Labelled, from_folders, from_timm, split_digits
from fcmae.engine.errors import UserError
from fcmae.engine.run_folder import RunFolder
from finetune.config import TIMM, FinetuneConfig
from finetune.prepare import check_batch, index_file
from finetune.resolve import pair


def open_data(config: FinetuneConfig, run: RunFolder) -> tuple[Labelled, Labelled]:
    """Images to train on and images to measure on.

    Args:
        config: complete
        run: the folder of the run, which holds the lists of images where they come from a folder

    Raises:
        UserError: the data cannot be read, or does not fill a batch
    """
    channels = config.network.in_chans or 3
    if config.data == DIGITS:
        height, _ = pair(config.image_size or 224)
        train, val = split_digits(height, channels, config.val_fraction, config.seed)
    elif config.data.startswith(TIMM):
        name = config.data.removeprefix(TIMM)
        train, val = (from_timm(name, config.data_root, split, channels) for split in ("train", "validation"))
        if train.classes != val.classes:
            raise UserError(f"data set {name}: training and validation have different classes")
    else:
        train, val = (
            from_folders(
                ClassFolders.read(ImageIndex.load(index_file(run, split))),
                channels,
                config.images.value_range,
            )
            for split in ("train", "val")
        )
    if config.train_fraction < 1:
        _, taken = split_by_class(train.labels.numpy(), config.train_fraction, config.seed)
        train = train.select(taken)
    check_batch(config, len(train.labels))
    return train, val


def rarity(labels: np.ndarray) -> np.ndarray:
    """Weight of each class, inverse to its share of the images: 1 for all where they are equally many."""
    counts = np.bincount(labels)
    weights: np.ndarray = len(labels) / (len(counts) * np.maximum(counts, 1))
    return weights
