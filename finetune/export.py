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
from typing import Any, Literal

import torch
from torch import Tensor

from fcmae.engine.errors import UserError
from models.convnext import ConvNeXt
from models.formats import to_timm, to_transformers
from models.weights import Weights, create_model_from, load_weights

ExportFormat = Literal["onnx", "timm", "transformers", "torch"]
Reader = Callable[[Tensor], Tensor]  # what was written, as a function of images: (B, C, H, W) to (B, K)

TOLERANCE = 1e-4  # largest difference that is accepted, as a share of the largest output
DEFAULT_IMAGE_SIZE = (224, 224)
CROP_SHARE = 0.875  # of the resized image, below 384 pixels: the evaluation rule of the ConvNeXt papers
PROTOBUF_LIMIT = 1.8e9  # bytes; an ONNX file holds less than 2 GiB, larger weights go beside it


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
    head give pooled, normalised features. Class names, mean and deviation of pixels go along where known.

    Args:
        weights: whatever `models.weights.load_weights` reads
        format: onnx writes a file for ONNX Runtime; torch one for `torch.export.load`; timm a folder for
            `timm.create_model("local-dir:FOLDER", pretrained=True)`; transformers one for `from_pretrained`
        out: the file or folder to write
        image_size: (height, width); none is the one in training, or 224 x 224 where the weights do not say

    Raises:
        UserError: weights that cannot be read, `out` exists or has no parent folder, a tool that is not
            installed or cannot express the network, or outputs that differ; nothing is left behind
    """
    if out.exists():
        raise UserError(f"{out}: exists already; choose another --out, or delete it")
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first")
    try:
        loaded = load_weights(weights)
    except ValueError as error:
        raise UserError(str(error)) from error
    model = create_model_from(loaded).eval()
    size = image_size or loaded.image_size or DEFAULT_IMAGE_SIZE
    if size[0] % model.stride or size[1] % model.stride:
        raise UserError(f"image size {size[0]} x {size[1]}: choose multiples of {model.stride}")
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder, torch.inference_mode():
        read = WRITERS[format](model, loaded, size, Path(folder) / out.name)
        difference = _largest_difference(model, read, (model.in_chans, *size))
        if not difference <= TOLERANCE:  # not a number is no agreement either
            raise UserError(
                f"{weights}: as {format} the outputs differ by {difference:.1e} of the largest one, more than "
                f"{TOLERANCE:.0e}; nothing was written"
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
    for tool in ("onnx", "onnxscript"):
        _import(tool, "pip install 'fcmae[onnx]'")
    runtime = _import("onnxruntime", "pip install 'fcmae[onnx]'")
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
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_torch(model: ConvNeXt, weights: Weights, size: tuple[int, int], path: Path) -> Reader:
    if path.suffix != ".pt2":
        raise UserError(f"{path.name}: torch.export's files end in .pt2; choose another --out")
    images = torch.zeros(2, model.in_chans, *size)
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(_describe(weights, size))})
    module: Reader = torch.export.load(path).module()
    return module


def _write_timm(model: ConvNeXt, weights: Weights, size: tuple[int, int], path: Path) -> Reader:
    timm = _import("timm", "pip install timm")
    if weights.options["stem_stride"] == 2:
        raise UserError("timm's ConvNeXt halves the map once more after a stem of stride 2: choose onnx or torch")
    widths = [stage[-1].dwconv.out_channels for stage in model.stages]  # type: ignore[index, union-attr]
    arguments = {
        "depths": [len(stage) for stage in model.stages],  # type: ignore[arg-type]
        "dims": widths,
        "patch_size": weights.options["stem_stride"],
        "in_chans": model.in_chans,
    }
    theirs = timm.create_model(weights.model, num_classes=model.num_classes, **arguments)
    first = theirs.state_dict()["stages.0.blocks.0.mlp.fc1.weight"]
    theirs.load_state_dict(to_timm(model.state_dict(), pointwise_convs=first.ndim == 4))
    theirs.pretrained_cfg.update(input_size=(model.in_chans, *size), crop_pct=_crop_share(size))
    if weights.mean and weights.std:
        theirs.pretrained_cfg.update(mean=weights.mean, std=weights.std)
    labels = {"label_names": weights.class_names} if weights.class_names else {}
    timm.models.save_for_hf(theirs, path, labels, arguments, safe_serialization=True)
    reader: Reader = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    return reader


def _write_transformers(model: ConvNeXt, weights: Weights, size: tuple[int, int], path: Path) -> Reader:
    transformers = _import("transformers", "pip install transformers")
