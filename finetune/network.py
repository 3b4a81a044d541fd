"""Networks to train and to use: ours, with weights from anywhere, or one of timm's.

Shapes: B batch, D features of an image.
"""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcmae.core.errors import UserError
from fcmae.core.files import write_safetensors
from fcmae.data.config import CROP_PCT
from fcmae.data.dataset import choose_workers
from fcmae.data.names import TIMM
from fcmae.data.once import Reader
from fcmae.data.transforms import channel_statistics
from fcmae.finetune.config import FinetuneConfig, pair
from fcmae.finetune.resolve import check_image_size, read_header
from fcmae.models.convnext import ConvNeXt, create_model
from fcmae.models.storage import read_tensors
from fcmae.models.weights import Weights, create_model_from, load_into, load_weights, match_classes

logger = logging.getLogger(__name__)

FORMAT = "fcmae.classifier.1"
REFUSALS = (AssertionError, AttributeError, RuntimeError, TypeError, ValueError)  # what timm's networks raise


def build_network(config: FinetuneConfig, classes: list[str]) -> nn.Module:
    """The network to train, with the weights of --init in it and a head for these classes.

    Where the weights name the classes of their head, a class of the same name keeps its row.

    Args:
        config: complete, as `fcmae.finetune.resolve.resolve` gives it
        classes: names of the classes

    Raises:
        UserError: weights that do not fit, or a name that timm does not know
    """
    model, network = config.model or "", config.network
    if model.startswith(TIMM):
        return create_timm(
            model,
            len(classes),
            config.size,
            in_chans=config.in_chans,
            drop_path_rate=network.drop_path_rate,
            grad_checkpointing=network.grad_checkpointing,
        )
    try:
        built = create_model(
            model,
            num_classes=len(classes),
            in_chans=config.in_chans,
            stem_stride=network.stem_stride or 4,
            depths=network.depths,
            dims=network.dims,
            drop_path_rate=network.drop_path_rate,
            head_init_scale=network.head_init_scale,
            grad_checkpointing=network.grad_checkpointing,
        )
        if config.init:
            weights = load_weights(Path(config.init).expanduser())
            names = head_classes(weights, config.init_classes)
            rows = match_classes(names, classes) if names else None
            load_into(built, weights, class_rows=rows)
    except ValueError as error:
        raise UserError(f"--init {config.init}: {error}" if config.init else str(error)) from error
    freeze_stages(built, network.freeze)
    return built


def head_classes(weights: Weights, listed: str | None) -> list[str]:
    """Names of the classes of the weights' head, from a file of names or from the weights; empty if unknown.

    Raises:
        ValueError: the file names another number of classes than the head has
    """
    if listed is None:
        return (weights.class_names or []) if weights.num_classes else []
    names = Path(listed).expanduser().read_text(encoding="utf-8").split("\n")
    names = [name.strip() for name in names if name.strip()]
    if len(names) != weights.num_classes:
        raise ValueError(f"{listed} names {len(names)} classes, the head has {weights.num_classes}")
    return names


def freeze_stages(model: ConvNeXt, stages: int) -> None:
    """Keep the weights of the first stages, with the stem and the downsamplings before them, as they are.

    Their blocks drop no paths: features that nothing learns are the same in training as in evaluation.
    """
    for downsample, stage in list(zip(model.downsample_layers, model.stages, strict=True))[:stages]:
        downsample.requires_grad_(False)
        stage.requires_grad_(False)
        for block in stage.children():
            block.drop_path = 0.0  # type: ignore[assignment]


def create_timm(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
) -> nn.Module:
    """A network of timm's, from scratch, that has seen one black image; one without drop path goes without.

    Raises:
        UserError: timm does not know the name, cannot checkpoint that network's activations, or the network
            does not take images of this size
    """
    import timm

    options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate > 0 else {}
    create = partial(timm.create_model, name.removeprefix(TIMM), num_classes=num_classes, in_chans=in_chans)
    try:
        try:
            model: nn.Module = create(**options)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            logger.warning("model %s has no drop path, and is trained without", name)
            model = create()
        if grad_checkpointing:
            model.set_grad_checkpointing()  # type: ignore[operator]
    except REFUSALS as error:
        raise UserError(f"model {name}: timm refuses ({' '.join(str(error).split())})") from error
    height, width = image_size
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, in_chans, height, width))
    except REFUSALS as error:
        raise UserError(
            f"model {name} does not take images of {height} x {width} ({' '.join(str(error).split())}): "
            "choose another --image-size"
        ) from error
    return model.train()


@dataclass(frozen=True)
class Trained:
    """A network with trained weights, and how its images are to be prepared.

    Args:
        model: in evaluation mode, on its device
        name: of the model
        in_chans: channels of the images
        num_classes: rows of the head; 0 where it gives features (B, D)
        classes: names of the classes, where the file says
        image_size: (height, width)
        crop_pct: share of the short side that evaluation crops
        mean, std: of pixels in 0..1
        value_range: values of 16-bit and float images that become 0 and 1; none is all that there can be
    """

    model: nn.Module
    name: str
    in_chans: int
    num_classes: int
    classes: list[str] | None
    image_size: tuple[int, int]
    crop_pct: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    value_range: tuple[float, float] | None

    def reader(self, batch_size: int, workers: int | None, device: torch.device) -> Reader:
        """Prepares images for this network; workers are chosen where none is given."""
        workers = choose_workers(device, workers)
        return Reader(self.image_size, self.crop_pct, self.mean, self.std, batch_size, workers, device)


def open_network(
    path: Path, device: torch.device, *, head: bool = True, image_size: int | None = None
) -> Trained:
    """A trained network from a run folder or a file.

    Args:
        path: see `fcmae.load_weights`; files of ours hold timm's networks as well. A checkpoint in
            a run is used as the run's own weights are: their size, statistics and classes, averaged or not
        device: where to compute
        head: whether to have the head; without it the network gives features
        image_size: side of the images; none is that of the training, or 224

    Raises:
        UserError: no such weights, weights without a head where one is asked for, or a size that cannot be
    """
    header = read_header(path)
    options = header.get("options", {})
    name = header.get("model", "")
    size = pair(image_size or tuple(header.get("image_size", (224, 224))))
    if name.startswith(TIMM):
        model = create_timm(name, len(header["class_names"]), size, **options)
        try:
            model.load_state_dict(read_tensors(path)[0])
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        if not head:
            model.reset_classifier(0)  # type: ignore[operator]
        num_classes = len(header["class_names"]) if head else 0
    else:
        weights = read_weights(path)
        model = create_model_from(weights, num_classes=None if head else 0)
        name, options, num_classes = weights.model, weights.options, model.num_classes
    if head and num_classes == 0:
        raise UserError(
            f"{path} holds an encoder without a head: fine-tune it first (fcmae finetune --init {path})"
        )
    check_image_size(size, getattr(model, "stride", 1))
    in_chans = options.get("in_chans", 3)
    mean, std = channel_statistics(in_chans, header.get("mean"), header.get("std"))
    return Trained(
        model=model.eval().to(device),
        name=name,
        in_chans=in_chans,
        num_classes=num_classes,
        classes=header.get("class_names"),
        image_size=size,
        crop_pct=header.get("crop_pct", CROP_PCT),
        mean=mean,
        std=std,
        value_range=header.get("value_range"),
    )


def save_network(
    state: dict[str, torch.Tensor],
    config: FinetuneConfig,
    classes: list[str],
    metrics: dict[str, Any],
    path: Path,
) -> None:
    """Write weights as a safetensors file that says all that is needed to use them, in JSON values.

    Args:
        state: of the network
        config: complete
        classes: names of the classes
        metrics: what was measured of these weights
        path: the file to write
    """
    network = config.network
    options: dict[str, Any] = {"in_chans": config.in_chans}
    if not (config.model or "").startswith(TIMM):
        named = {"stem_stride": network.stem_stride, "depths": network.depths, "dims": network.dims}
        options |= {name: value for name, value in named.items() if value is not None}
    mean, std = channel_statistics(config.in_chans, config.images.mean, config.images.std)
    metadata = {
        "format": FORMAT,
        "model": config.model,
        "options": options,
        "class_names": classes,
        "image_size": config.size,
        "crop_pct": config.crop_pct,
        "mean": mean,
        "std": std,
        "value_range": config.images.value_range,
        "metrics": metrics,
    }
    write_safetensors(path, state, metadata)


def read_weights(path: Path) -> Weights:
    """Weights as `fcmae.models.weights.load_weights` reads them.

    Raises:
        UserError: they cannot be read
    """
    try:
        return load_weights(path)
    except ValueError as error:
        raise UserError(str(error)) from error
