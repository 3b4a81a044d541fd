"""Trained weights in the form of other tools: ONNX, timm, transformers and torch.export.

What is written is read back by the tool itself and compared with our network before it counts.

Shapes: B batch, C channels, H W pixels, K classes (or features, of weights without a head).
"""

import importlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.core.files import AnyPath
from fcmae.data.config import CROP_PCT, STRAIGHT_FROM
from fcmae.finetune.checks import ExportFormat, check_export
from fcmae.finetune.config import DEFAULT_IMAGE_SIZE, pair
from fcmae.models.card import Card
from fcmae.models.convnext import ConvNeXt
from fcmae.models.formats import to_timm, to_transformers
from fcmae.models.geometry import check_image_size
from fcmae.models.weights import create_model_from, load_weights

Forward = Callable[[Tensor], Tensor]  # what was written, as a function of images: (B, C, H, W) to (B, K)

TOLERANCE = 1e-4  # largest difference that is accepted, as a fraction of the largest output
BICUBIC = 3  # Pillow's number, which transformers' files hold
PROTOBUF_LIMIT = 1.8e9  # bytes; an ONNX file holds less than 2 GiB, larger weights go beside it
TOOLS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "timm": ("timm",), "transformers": ("transformers",)}


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its outputs are from ours (as a fraction of the largest output)."""

    path: Path
    difference: float


def export(
    weights: AnyPath, format: ExportFormat, out: AnyPath, image_size: tuple[int, int] | None = None
) -> Exported:
    """Convert weights for another tool, and check with that tool that the outputs are the same.

    Every form takes normalised images (B, C, H, W) with any B, and gives logits (B, K); weights without a
    head give pooled, normalised features. Class names, statistics of pixels and the crop of evaluation go
    along where known.

    Args:
        weights: whatever `fcmae.models.weights.load_weights` reads
        format: onnx writes a file for ONNX Runtime; torch one for `torch.export.load`; timm a folder for
            `timm.create_model("local-dir:FOLDER", pretrained=True)`; transformers one for `from_pretrained`
        out: the file or folder to write
        image_size: (height, width), by default that of the training, or 224 x 224 where it is unknown

    Raises:
        UserError: weights that cannot be read, `out` exists or has no parent folder, a tool that is not
            installed or cannot express the network, or outputs that differ; nothing is left behind
    """
    weights, out = Path(weights), Path(out)
    check_export(format, out)
    _check_tools(format)
    loaded = load_weights(weights)
    model = create_model_from(loaded).eval()
    size = image_size or loaded.card.image_size or pair(DEFAULT_IMAGE_SIZE)
    check_image_size(size, model.stride)
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder,
        torch.inference_mode(),
    ):
        logger.info("writing %s as %s", weights, format)
        card = replace(loaded.card, image_size=size, crop_pct=_crop_pct(loaded.card, size))
        forward = WRITERS[format](model, card, size, Path(folder) / out.name)
        logger.info("written; comparing its outputs with ours")
        difference = _largest_difference(model, forward, (model.in_chans, *size))
        if not difference <= TOLERANCE:  # not a number is no agreement either
            raise UserError(
                f"{weights}: as {format} the outputs differ by {difference:.1e} of the largest one, which is "
                f"more than {TOLERANCE:.0e}; nothing was written"
            )
        _open_to_all(Path(folder))
        for path in Path(folder).iterdir():
            os.replace(path, out.with_name(path.name))
    return Exported(out, difference)


def _open_to_all(folder: Path) -> None:
    """Give files the permissions that new ones have here; safetensors lets nobody else read its own."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _largest_difference(model: ConvNeXt, forward: Forward, shape: tuple[int, int, int]) -> float:
    """Compare outputs on random images, in batches of 1 and 3: largest difference over largest output."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in (1, 3):
        images = torch.randn(batch, *shape, generator=generator)
        ours = model(images)
        differences.append((forward(images) - ours).abs().max() / ours.abs().max())
    return torch.stack(differences).max().item()


def _write_onnx(model: ConvNeXt, card: Card, size: tuple[int, int], path: Path) -> Forward:
    """Write a file for ONNX Runtime, with the card in its metadata."""
    import onnxruntime

    program = torch.onnx.export(
        model,
        (torch.zeros(2, model.in_chans, *size),),
        input_names=["images"],
        output_names=["logits" if model.num_classes else "features"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # it is with dynamo
    program.model.metadata_props.update(card.to_metadata())
    bytes_in_all = sum(tensor.nbytes for tensor in model.state_dict().values())
    program.save(path, external_data=bytes_in_all > PROTOBUF_LIMIT)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_torch(model: ConvNeXt, card: Card, size: tuple[int, int], path: Path) -> Forward:
    """Write a file of torch.export's, with the card beside the program, in metadata.json."""
    images = torch.zeros(2, model.in_chans, *size)
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(card.to_metadata())})
    module: Forward = torch.export.load(path).module()
    return module


def _write_timm(model: ConvNeXt, card: Card, size: tuple[int, int], path: Path) -> Forward:
    """Write a folder that `timm.create_model` reads.

    Raises:
        UserError: a stem of stride 2, which timm does not have
    """
    import timm

    if model.stem_stride == 2:
        raise UserError("timm halves the map once more after a stem of stride 2: choose another --format")
    arguments: dict[str, Any] = {
        "depths": card.size.depths,
        "dims": card.size.dims,
        "patch_size": model.stem_stride,
        "in_chans": model.in_chans,
    }
    settings: dict[str, Any] = {
        "input_size": (model.in_chans, *size),
        "interpolation": "bicubic",
        "crop_pct": card.crop_pct,
        "crop_mode": "center" if min(size) < STRAIGHT_FROM else "squash",
        "first_conv": "stem.0",
        "classifier": "head.fc",
    }
    if card.mean and card.std:
        settings |= {"mean": card.mean, "std": card.std}
    theirs = timm.create_model(
        card.model, pretrained_cfg=settings, num_classes=model.num_classes, **arguments
    )
    first = theirs.state_dict()["stages.0.blocks.0.mlp.fc1.weight"]
    theirs.load_state_dict(to_timm(model.state_dict(), pointwise_convs=first.ndim == 4))
    labels = {"label_names": card.class_names} if card.class_names else {}
    timm.models.save_for_hf(theirs, str(path), labels, arguments, safe_serialization=True)
    read: Forward = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    return read


def _write_transformers(model: ConvNeXt, card: Card, size: tuple[int, int], path: Path) -> Forward:
    """Write a folder that `from_pretrained` reads, with an image processor where images are square."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    generation = "ConvNext" if card.size.layer_scale else "ConvNextV2"
    kind = getattr(transformers, generation + ("ForImageClassification" if model.num_classes else "Model"))
    config = kind.config_class(
        num_channels=model.in_chans,
        patch_size=model.stem_stride,
        depths=list(card.size.depths),
        hidden_sizes=list(card.size.dims),
        image_size=list(size),
        layer_norm_eps=model.norm.eps,
        num_labels=model.num_classes,
    )
    if card.class_names:
        config.id2label = dict(enumerate(card.class_names))
        config.label2id = {name: label for label, name in config.id2label.items()}
    theirs = kind(config)
    theirs.load_state_dict(to_transformers(model.state_dict()))
    theirs.save_pretrained(path)
    if card.mean and card.std and size[0] == size[1]:  # the processor knows square images only
        processor = transformers.ConvNextImageProcessor(
            size={"shortest_edge": size[0]},
            crop_pct=_crop_pct(card, size),
            resample=BICUBIC,
            image_mean=card.mean,
            image_std=card.std,
        )
        processor.save_pretrained(path)
    saved = kind.from_pretrained(path).eval()
    output = "logits" if model.num_classes else "pooler_output"
    return lambda images: getattr(saved(images), output)


WRITERS = {
    "onnx": _write_onnx,
    "timm": _write_timm,
    "transformers": _write_transformers,
    "torch": _write_torch,
}


def _crop_pct(card: Card, size: tuple[int, int]) -> float:
    """Return the fraction of the short side that evaluation crops: all where images are resized straight."""
    return card.crop_pct or CROP_PCT if min(size) < STRAIGHT_FROM else 1.0


def _check_tools(format: ExportFormat) -> None:
    """Refuse a format whose tools cannot be imported.

    Raises:
        UserError: the message says what to install
    """
    for tool in TOOLS.get(format, ()):
        try:
            importlib.import_module(tool)
        except ImportError as error:
            raise UserError(
                f"--format {format} needs {tool}, which cannot be imported ({error}): "
                f"pip install {' '.join(TOOLS[format])}"
            ) from error
