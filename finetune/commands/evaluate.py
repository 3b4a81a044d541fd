"""Measuring a trained classifier on labelled images.

Shapes: K classes.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fcmae.core.device import pick_device
from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.core.files import AnyPath
from fcmae.data.classes import some
from fcmae.data.config import DATA_ROOT
from fcmae.data.images import Labelled
from fcmae.data.sources import SourceOptions, Spec, find_opener
from fcmae.engine.precision import autocast
from fcmae.finetune.checks import check_classes
from fcmae.finetune.data import open_data
from fcmae.finetune.measure import Scores, measure
from fcmae.finetune.origin import is_own_data, own_config, own_run
from fcmae.finetune.report import write_report
from fcmae.finetune.trained import Trained, open_network


def evaluate(
    weights: AnyPath,
    data: Spec | None = None,
    *,
    out: AnyPath | None = None,
    data_root: str | None = None,
    image_size: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    precision: str = "float32",
    device: str = "auto",
) -> dict[str, Any]:
    """Measure top-1, top-5 and mean per-class accuracy in percent, loss and images/s.

    Each readable image counts once.

    Args:
        weights: run folder or file, see `open_network`
        data: folder of classes, or one with val/; digits; or a name of timm's. By default that of the run,
            of which only the images that it kept for validation are measured
        out: folder for the metrics, the confusion matrix and the worst classes
        data_root: where a data set given by name lies, by default where the run had its own, else data
        image_size: side in pixels, by default that of the training. At 384 and above images are resized to
            it, below that their short side is resized to image_size / crop_pct and the centre is cropped
        batch_size: images of one batch and process
        workers: processes that read, by default chosen for the device
        precision: float32, bf16 or fp16
        device: see `pick_device`

    Raises:
        UserError: weights or data that cannot be read, or that do not know the same classes
    """
    weights = Path(weights)
    out = None if out is None else Path(out)
    at = pick_device(device)
    network = open_network(weights, at, image_size=image_size)
    labelled = relabel(open_validation(weights, data, data_root, network), network, str(data), weights)
    started = time.monotonic()
    with torch.inference_mode(), autocast(precision, at):
        reader = network.reader(batch_size, workers, at)
        scores = measure(network.model, labelled, reader, confusion=out is not None)
    images = int(scores.images.sum())
    metrics = {
        **scores.metrics(),
        "images": images,
        "unreadable": len(labelled.labels) - images,
        "images_per_s": images / (time.monotonic() - started),
    }
    if out is not None and current_world().is_rank_zero and isinstance(scores, Scores):
        write_report(scores, metrics, labelled.classes, out)
    return metrics


def open_validation(weights: Path, data: Spec | None, data_root: str | None, network: Trained) -> Labelled:
    """Open the labelled images to measure on, but never those a run was trained on.

    Args:
        weights: run folder or file
        data: as for `evaluate`
        data_root: where a data set given by name lies
        network: whose channels and size they get

    Raises:
        UserError: they cannot be read
    """
    run = own_run(weights)
    if run is not None and is_own_data(data, run):
        config = own_config(run)
        there = data_root or config.data_root
        return open_data(replace(config, image_size=network.card.image_size, data_root=there), run)[1]
    assert data is not None  # only the run's own may go unnamed
    card = network.card
    options = SourceOptions(
        card.in_chans,
        card.image_size[0],
        card.value_range,
        data_root or DATA_ROOT,
        no_data=card.no_data,
    )
    return find_opener(data).open_validation(options)


def relabel(labelled: Labelled, network: Trained, data: str, weights: Path) -> Labelled:
    """Return the images with the numbers that the network gives the classes.

    Args:
        labelled: the images with the numbers of their own classes
        network: whose card may name its classes
        data, weights: for the message

    Raises:
        UserError: the network does not know the classes, or has another number of nameless ones
    """
    names, kind = network.card.class_names, network.card.labels or "class"
    if labelled.kind != kind:
        raise UserError(f"{data} has labels of the kind {labelled.kind}, and {weights} of the kind {kind}")
    if kind != "class" and names is not None:
        if set(names) != set(labelled.classes):
            raise UserError(f"{data} has {kind} {some(labelled.classes)}, and {weights} {some(list(names))}")
        order = [labelled.classes.index(name) for name in names]
        return Labelled(labelled.source, labelled.labels[:, order], list(names), labelled.kind)
    check_classes(labelled.classes, names, data, weights)
    if names is None:
        if len(labelled.classes) != network.num_classes:
            raise UserError(
                f"{data} has {len(labelled.classes)} classes and the head of {weights} has "
                f"{network.num_classes}: measure on the data it was trained for, or fine-tune it on this"
            )
        return labelled
    places = torch.tensor([names.index(name) for name in labelled.classes])
    return Labelled(labelled.source, places[labelled.labels], list(names))
