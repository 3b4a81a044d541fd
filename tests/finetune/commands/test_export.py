"""Exported networks give our outputs in the tool that they are for; those that would not are not written."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from fcmae import ConvNeXt, create_model
from fcmae.core.errors import UserError
from fcmae.data.transforms import resize_center_crop
from fcmae.finetune.checks import ExportFormat
from fcmae.finetune.commands.export import export
from fcmae.models.card import Card
from fcmae.models.formats import to_timm
from fcmae.models.storage import save_weights
from tests.conftest import Randomize

STEM = {"in_chans": 3, "stem_stride": 4}
SIZE: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 20)}
CLASSES = ("ant", "bee", "cat", "dog")
OUT = {"onnx": "net.onnx", "timm": "net", "transformers": "net", "torch": "net.pt2"}
IMAGES = torch.randn(5, 3, 64, 32, generator=torch.Generator().manual_seed(5))


def write(model: nn.Module, path: Path, **known: Any) -> Path:
    usual = {"image_size": (64, 32), "mean": (0.4, 0.5, 0.6), "std": (0.1, 0.2, 0.3)}
    save_weights(path, model.state_dict(), Card(model="convnextv2_atto", options={}, **(usual | known)))
    return path


def trained(randomize: Randomize, name: str = "convnextv2_atto", **options: Any) -> ConvNeXt:
    return randomize(create_model(name, **{"num_classes": 4, **SIZE, **options})).eval()


def assert_same(found: Tensor, model: nn.Module) -> None:
    with torch.inference_mode():
        expected = model(IMAGES)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_onnx_runs_with_any_batch_and_says_what_it_needs(randomize: Randomize, tmp_path: Path) -> None:
    for tool in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(tool, reason=f"{tool} is not installed")
    import onnxruntime

    model = trained(randomize)
    weights = write(model, tmp_path / "w.safetensors", class_names=CLASSES)
    export(weights, "onnx", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert_same(torch.from_numpy(session.run(["logits"], {"images": IMAGES.numpy()})[0]), model)
    card = Card.from_metadata(session.get_modelmeta().custom_metadata_map)
    assert card is not None
    assert (card.class_names, card.mean, card.options) == (CLASSES, (0.4, 0.5, 0.6), {**STEM, **SIZE})


def test_a_torch_program_runs_with_any_batch(randomize: Randomize, tmp_path: Path) -> None:
    model = trained(randomize, stem_stride=2)
    known = {"class_names": CLASSES, "crop_pct": 0.9, "value_range": (0, 4095)}
    weights = write(model, tmp_path / "w.safetensors", **known)
    export(weights, "torch", tmp_path / "net.pt2")
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra)
    assert_same(program.module()(IMAGES).detach(), model)
    card = Card.from_metadata(json.loads(extra["metadata.json"]))
    assert card is not None
    assert (card.class_names, card.crop_pct, card.value_range) == (CLASSES, 0.9, (0, 4095))
    assert (card.image_size, card.options) == ((64, 32), {**STEM, "stem_stride": 2, **SIZE})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnextv2_atto", {}),
        ("convnextv2_atto", {"depths": None, "dims": None}),  # timm's has 1x1 convolutions
        ("convnext_tiny", {"stem_stride": 1}),
        ("convnextv2_atto", {"num_classes": 0}),
    ],
)
def test_timm_loads_the_folder(
    name: str, options: dict[str, Any], randomize: Randomize, tmp_path: Path
) -> None:
    model = trained(randomize, name, **options)
    names = CLASSES if model.num_classes else None
    export(write(model, tmp_path / "w.safetensors", class_names=names), "timm", tmp_path / "net")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'net'}", pretrained=True).eval()
    assert_same(theirs(IMAGES).detach(), model)
    assert timm.data.resolve_model_data_config(theirs)["mean"] == [0.4, 0.5, 0.6]
    labels = json.loads((tmp_path / "net" / "config.json").read_text()).get("label_names")
    assert labels == (list(CLASSES) if names else None)


@pytest.mark.parametrize(("name", "stride"), [("convnextv2_atto", 2), ("convnext_tiny", 4)])
def test_transformers_loads_the_folder(name: str, stride: int, randomize: Randomize, tmp_path: Path) -> None:
    model = trained(randomize, name, stem_stride=stride)
    weights = write(model, tmp_path / "w.safetensors", class_names=CLASSES, image_size=(64, 64))
    export(weights, "transformers", tmp_path / "net")
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "net").eval()
    assert_same(theirs(IMAGES).logits.detach(), model)
    assert [theirs.config.id2label[row] for row in range(4)] == [*CLASSES]
    picture = torch.full((3, 90, 120), 255, dtype=torch.uint8)
    pixels = AutoImageProcessor.from_pretrained(tmp_path / "net")(picture, return_tensors="pt")[
        "pixel_values"
    ]
    white = ((1 - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.1, 0.2, 0.3])).view(1, 3, 1, 1)
    torch.testing.assert_close(pixels, white.expand(1, 3, 64, 64))


@pytest.mark.parametrize(("side", "crop_pct"), [(32, 1.0), (32, 0.5), (384, 0.5)])
def test_exports_prepare_images_as_evaluation_does(
    side: int, crop_pct: float, randomize: Randomize, tmp_path: Path
) -> None:
    """Pixels of a ramp, 0 to 255, by our transform and by theirs."""
    mean, std, size = (0.0,) * 3, (1.0,) * 3, (side, side)
    known = {"image_size": size, "crop_pct": crop_pct, "mean": mean, "std": std}
    weights = write(trained(randomize), tmp_path / "w.safetensors", **known)
    export(weights, "timm", tmp_path / "timm")
    export(weights, "transformers", tmp_path / "transformers")
    down, across = torch.arange(90)[:, None], torch.arange(120)
    ramp = torch.stack([2 * down + 0 * across, 0 * down + 2 * across, down + across]).to(torch.uint8)
    expected = resize_center_crop(size, crop_pct)(ramp).float()
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    by_timm = transform(Image.fromarray(ramp.permute(1, 2, 0).numpy()))
    torch.testing.assert_close(255 * by_timm, expected, rtol=0, atol=1)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "transformers")
    by_transformers = processor(ramp, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(255 * by_transformers, expected, rtol=0, atol=1)
    assert json.loads((tmp_path / "transformers" / "preprocessor_config.json").read_text())["resample"] == 3


def test_transformers_features_of_a_bare_encoder(randomize: Randomize, tmp_path: Path) -> None:
    encoder = trained(randomize, features_only=True)
    export(write(encoder, tmp_path / "w.safetensors"), "transformers", tmp_path / "net")
    theirs = AutoModel.from_pretrained(tmp_path / "net").eval()
    pooled = encoder.forward_features(IMAGES).mean((2, 3))
    expected = nn.functional.layer_norm(pooled, pooled.shape[1:], eps=1e-6)
    torch.testing.assert_close(theirs(IMAGES).pooler_output, expected, rtol=1e-4, atol=1e-5)


def test_what_was_exported_is_read_again(randomize: Randomize, tmp_path: Path) -> None:
    model = trained(randomize)
    export(write(model, tmp_path / "w.safetensors"), "timm", tmp_path / "timm")
    export(tmp_path / "timm", "transformers", tmp_path / "transformers", image_size=(64, 32))
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "transformers").eval()
    assert_same(theirs(IMAGES).logits.detach(), model)


def test_outputs_that_differ_leave_nothing(
    randomize: Randomize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write(trained(randomize), tmp_path / "w.safetensors")

    def slightly_wrong(state: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
        theirs = to_timm(state, **options)
        return theirs | {"head.fc.bias": theirs["head.fc.bias"] + 0.01}

    monkeypatch.setattr("fcmae.finetune.commands.export.to_timm", slightly_wrong)
    with pytest.raises(UserError, match=r"w\.safetensors: as timm the outputs differ"):
        export(weights, "timm", tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("format", ["onnx", "timm", "transformers"])
def test_a_missing_tool_is_named_with_its_remedy(
    format: ExportFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, format, None)
    with pytest.raises(UserError, match=rf"--format {format} needs {format}.*pip install {format}"):
        export(tmp_path / "absent.pt", format, tmp_path / OUT[format])


def test_what_cannot_be_exported_is_refused(randomize: Randomize, tmp_path: Path) -> None:
    weights = write(trained(randomize, stem_stride=2), tmp_path / "w.safetensors")
    refused: list[tuple[ExportFormat, str, tuple[int, int] | None, str]] = [
        ("torch", "w.safetensors", None, "exists already"),
        ("torch", "absent/net.pt2", None, "the folder .* does not exist"),
        ("torch", "net.bin", None, r"end in \.pt2"),
        ("torch", "net.pt2", (40, 32), "image size 40 x 32 is not a multiple of the network's stride 16"),
        ("timm", "net", None, "stem of stride 2: choose another --format"),
    ]
    for format, out, image_size, message in refused:
        with pytest.raises(UserError, match=message):
            export(weights, format, tmp_path / out, image_size)
    with pytest.raises(UserError, match=r"absent\.pt: no such weights"):
        export(tmp_path / "absent.pt", "torch", tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_others_can_read_what_was_written(format: Any, randomize: Randomize, tmp_path: Path) -> None:
    export(write(trained(randomize), tmp_path / "own.safetensors"), format, tmp_path / "out")
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")}
    assert set(modes.values()) == {0o666 & ~umask}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask
