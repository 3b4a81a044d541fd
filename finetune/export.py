"""Trained weights in the form of other tools: ONNX, timm, transformers and torch.export.

What is written is read back by the tool itself and compared with our network before it counts.

Shapes: B batch, C channels, H W pixels, K classes (or features, of weights without a head).
"""

import importlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.data.config import CROP_PCT, STRAIGHT_FROM
from fcmae.finetune.inputs import ExportFormat, check_export
from fcmae.finetune.network import read_weights
from fcmae.finetune.resolve import check_image_size
from fcmae.models.convnext import ConvNeXt
from fcmae.models.formats import to_timm, to_transformers
from fcmae.models.weights import Weights, create_model_from

Reader = Callable[[Tensor], Tensor]  # what was written, as a function of images: (B, C, H, W) to (B, K)

TOLERANCE = 1e-4  # largest difference that is accepted, as a share of the largest output
DEFAULT_IMAGE_SIZE = (224, 224)
BICUBIC = 3  # Pillow's number, which transformers' files hold
PROTOBUF_LIMIT = 1.8e9  # bytes; an ONNX file holds less than 2 GiB, larger weights go beside it
TOOLS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "timm": ("timm",), "transformers": ("transformers",)}


@dataclass(frozen=True)
class Exported:
    """What was written, and how far its outputs are from ours (as a share of the largest output)."""

    path: Path
    difference: float


def export(
    weights: Path, format: ExportFormat, out: Path, image_size: tuple[int, int] | None = None
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
        image_size: (height, width); none is the one in training, or 224 x 224 where the weights do not say

    Raises:
        UserError: weights that cannot be read, `out` exists or has no parent folder, a tool that is not
            installed or cannot express the network, or outputs that differ; nothing is left behind
    """
    check_export(format, out)
    _check_tools(format)
    loaded = read_weights(weights)
    model = create_model_from(loaded).eval()
    size = image_size or loaded.image_size or DEFAULT_IMAGE_SIZE
    check_image_size(size, model.stride)
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder,
        torch.inference_mode(),
    ):
        read = WRITERS[format](model, loaded, size, Path(folder) / out.name)
        difference = _largest_difference(model, read, (model.in_chans, *size))
        if not difference <= TOLERANCE:  # not a number is no agreement either
            raise UserError(
                f"{weights}: as {format} the outputs differ by {difference:.1e} of the largest one, which is "
                f"more than {TOLERANCE:.0e}; nothing was written"
            )
        for path in Path(folder).iterdir():
            os.replace(path, out.with_name(path.name))
    return Exported(out, difference)


def _largest_difference(model: ConvNeXt, read: Reader, shape: tuple[int, int, int]) -> float:
    """Between our outputs and theirs on random images, one and several at a time, over our largest output."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in (1, 3):
        images = torch.randn(batch, *shape, generator=generator)
        ours = model(images)
        differences.append((read(images) - ours).abs().max() / ours.abs().max())
    return torch.stack(differences).max().item()


def _write_onnx(model: ConvNeXt, weights: Weights, size: tuple[int, int], path: Path) -> Reader:
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
    program.model.metadata_props.update(_describe(weights, size))
    bytes_in_all = sum(tensor.nbytes for tensor in model.state_dict().values())
    program.save(path, external_data=bytes_in_all > PROTOBUF_LIMIT)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_torch(model: ConvNeXt, weights: Weights, size: tuple[int, int], path: Path) -> Reader:
    images = torch.zeros(2, model.in_chans, *size)
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(_describe(weights, size))})
    module: Reader = torch.export.load(path).module()
    return module


def _write_timm(model: ConvNeXt, weights: Weights, size: tuple[int, int], path: Path) -> Reader:
    import timm

    if weights.options["stem_stride"] == 2:
        raise UserError("timm halves the map once more after a stem of stride 2: choose another --format")
    arguments = {
        "depths": weights.size.depths,
        "dims": weights.size.dims,
        "patch_size": weights.options["stem_stride"],
        "in_chans": model.in_chans,
    }
    settings = {
        "input_size": (model.in_chans, *size),
        "interpolation": "bicubic",
        "crop_pct": _crop_pct(weights, size),
        "crop_mode": "center" if min(size) < STRAIGHT_FROM else "squash",
        "first_conv": "stem.0",
        "classifier": "head.fc",
    }
    if weights.mean and weights.std:
        settings |= {"mean": weights.mean, "std": weights.std}
    theirs = timm.create_model(
        weights.model, pretrained_cfg=settings, num_classes=model.num_classes, **arguments
    )
    first = theirs.state_dict()["stages.0.blocks.0.mlp.fc1.weight"]
    theirs.load_state_dict(to_timm(model.state_dict(), pointwise_convs=first.ndim == 4))
    labels = {"label_names": weights.class_names} if weights.class_names else {}
    timm.models.save_for_hf(theirs, str(path), labels, arguments, safe_serialization=True)
    reader: Reader = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    return reader


def _write_transformers(model: ConvNeXt, weights: Weights, size: tuple[int, int], path: Path) -> Reader:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    generation = "ConvNextV2" if weights.model.startswith("convnextv2") else "ConvNext"
    kind = getattr(transformers, generation + ("ForImageClassification" if model.num_classes else "Model"))
    config = kind.config_class(
        num_channels=model.in_chans,
        patch_size=weights.options["stem_stride"],
        depths=list(weights.size.depths),
        hidden_sizes=list(weights.size.dims),
        image_size=list(size),
        layer_norm_eps=model.norm.eps,
        num_labels=model.num_classes,
    )
    if weights.class_names:
        config.id2label = dict(enumerate(weights.class_names))
        config.label2id = {name: label for label, name in config.id2label.items()}
    theirs = kind(config)
    theirs.load_state_dict(to_transformers(model.state_dict()))
    theirs.save_pretrained(path)
    if weights.mean and weights.std and size[0] == size[1]:  # the processor knows square images only
        processor = transformers.ConvNextImageProcessor(
            size={"shortest_edge": size[0]},
            crop_pct=_crop_pct(weights, size),
            resample=BICUBIC,
            image_mean=weights.mean,
            image_std=weights.std,
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


def _describe(weights: Weights, size: tuple[int, int]) -> dict[str, str]:
    """What is known of the weights, as JSON values under the names of our safetensors files."""
    known = {
        "model": weights.model,
        "image_size": size,
        "mean": weights.mean,
        "std": weights.std,
        "crop_pct": _crop_pct(weights, size),
        "value_range": weights.value_range,
        "class_names": weights.class_names,
    }
    return {name: json.dumps(value) for name, value in known.items() if value is not None}


def _crop_pct(weights: Weights, size: tuple[int, int]) -> float:
    """The share of the short side that evaluation crops; all of it where images are resized straight."""
    return weights.crop_pct or CROP_PCT if min(size) < STRAIGHT_FROM else 1.0


def _check_tools(format: ExportFormat) -> None:
    """Refuse a format whose tools cannot be imported.

    Raises:
        UserError: see above
    """
    for tool in TOOLS.get(format, ()):
        try:
            importlib.import_module(tool)
        except ImportError as error:
            raise UserError(
                f"--format {format} needs {tool}, which cannot be imported ({error}): "
                f"pip install {' '.join(TOOLS[format])}"
            ) from error
