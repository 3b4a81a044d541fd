"""The training and validation images of a run, from its settings."""

import numpy as np

from fcmae.data.classes import ClassFolders, find_classes, split_by_class
from fcmae.data.config import DIGITS
from fcmae.data.index import ImageIndex
from fcmae.data.labelled import Labelled, from_folders, from_timm, split_digits
from fcmae.engine.errors import UserError
from fcmae.engine.run_folder import RunFolder
from finetune.config import TIMM, FinetuneConfig
from finetune.prepare import check_batch, index_file
from finetune.resolve import ALIASES, pair


def open_data(config: FinetuneConfig, run: RunFolder) -> tuple[Labelled, Labelled]:
    """Images to train on and images to measure on.

    Args:
        config: complete
        run: the folder of the run, which holds the lists of images where they come from a folder

    Raises:
        UserError: the data cannot be read, or does not fill a batch
    """
    channels = config.network.in_chans or 3
    if index_file(run, "train").exists():
        lists = (ClassFolders.read(ImageIndex.load(index_file(run, split))) for split in ("train", "val"))
        train, val = (from_folders(each, channels, config.images.value_range) for each in lists)
    else:
        height, _ = pair(config.image_size or 224)
        train, val = open_splits(
            config.data,
            channels,
            height,
            data_root=config.data_root,
            val_fraction=config.val_fraction,
            seed=config.seed,
        )
    if config.train_fraction < 1:
        _, taken = split_by_class(train.labels.numpy(), config.train_fraction, config.seed)
        train = train.select(taken)
    check_batch(config, len(train.labels))
    return train, val


def open_splits(
    data: str, channels: int, size: int, *, data_root: str, val_fraction: float, seed: int
) -> tuple[Labelled, Labelled]:
    """Training and validation images by the name or folder of their data.

    Args:
        data: see `FinetuneConfig.data`
        channels: of the images
        size: side of the digits in pixels; images of a folder keep their own
        data_root: where a data set given by name lies
        val_fraction, seed: of the split of data that is in one piece

    Raises:
        UserError: the data cannot be read
    """
    data = ALIASES.get(data, data)
    if data == DIGITS:
        return split_digits(size, channels, val_fraction, seed)
    if data.startswith(TIMM):
        name = data.removeprefix(TIMM)
        train, val = (from_timm(name, data_root, split, channels) for split in ("train", "validation"))
        if train.classes != val.classes:
            raise UserError(f"data set {name}: training and validation have different classes")
        return train, val
    folders = find_classes(data, val_fraction, seed)
    return from_folders(folders[0], channels), from_folders(folders[1], channels)


def rarity(labels: np.ndarray) -> np.ndarray:
    """Weight of each class, inverse to its share of the images: 1 for all where they are equally many."""
    counts = np.bincount(labels)
    weights: np.ndarray = len(labels) / (len(counts) * np.maximum(counts, 1))
    return weights
