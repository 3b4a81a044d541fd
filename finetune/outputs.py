"""What a trained network gives for each image.

Shapes: B batch, D classes, or features of an image.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from fcmae.data.broken import BrokenList
from fcmae.data.images import ImageSource
from fcmae.data.sources import SourceOptions, Spec, find_opener
from fcmae.engine.precision import autocast
from fcmae.finetune.trained import Trained


def open_all(images: Spec, network: Trained) -> ImageSource:
    """Open all images of what --images says, to be read as the network was trained on them.

    Raises:
        UserError: there is none, or none of those tried can be read
    """
    card = network.card
    options = SourceOptions(card.in_chans, card.image_size[0], card.value_range, no_data=card.no_data)
    return find_opener(images).open_everything(options)


@torch.inference_mode()
def outputs(
    network: Trained,
    source: ImageSource,
    broken: BrokenList,
    batch_size: int,
    workers: int | None,
    precision: str,
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield names of readable images and what the network gives for them, float32 (B, D), batch by batch.

    Args:
        network: with a head or without
        source: its images
        broken: where to list those that cannot be read
        batch_size: images of one batch
        workers: processes that read, by default chosen for the device
        precision: float32, bf16 or fp16
    """
    device = next(network.model.parameters()).device
    for batch in network.reader(batch_size, workers, device).read_once(source):
        broken.add(source, batch.broken)
        with autocast(precision, device):
            values = network.model(batch.images)
        names = [source.name(number) for number in batch.keep(batch.source_index).tolist()]
        yield names, batch.keep(values.float())


def list_broken(out: Path) -> BrokenList:
    """Start the list of what cannot be read beside the file that is written, anew."""
    path = out.with_name(out.name + ".broken.txt")
    path.unlink(missing_ok=True)
    return BrokenList(path)
