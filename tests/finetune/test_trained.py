"""A trained network is opened as it was trained, whatever it is used for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_hook

from fcmae import create_model
from fcmae.core.errors import UserError
from fcmae.finetune.checks import check_weights
from fcmae.finetune.commands.embed import embed
from fcmae.finetune.commands.evaluate import evaluate
from fcmae.finetune.commands.predict import predict
from fcmae.finetune.commands.probe import probe
from fcmae.finetune.resolve import resolve
from fcmae.finetune.trained import open_network, save_network
from fcmae.models.weights import load_weights
from tests.finetune.small_run import NETWORK, run_small, small_config

CPU = torch.device("cpu")


@pytest.mark.parametrize("model", ["convnextv2_atto", "timm:resnet10t"])
def test_a_checkpoint_in_a_run_is_measured_as_its_run_is(model: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": model, "image_size": 32, "crop_pct": 0.8}
    if model.startswith("timm:"):
        options["network"] = replace(NETWORK, stem_stride=None, depths=None, dims=None)
    images = replace(small_config(tmp_path).images, mean=(0.3,), std=(0.2,))
    run_small(tmp_path / "run", epochs=1, best="ema_top1", images=images, **options)
    run, checkpoint = (
        open_network(path, CPU) for path in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "best.pt")
    )
    assert checkpoint.card == run.card
    assert (run.num_classes, checkpoint.num_classes) == (10, 10)
    assert (run.card.image_size, run.card.crop_pct) == ((32, 32), 0.8)
    assert (run.card.mean, run.card.std, run.card.averaged) == ((0.3,), (0.2,), True)
    left, right = run.model.state_dict(), checkpoint.model.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has not yet written its weights"):
        check_weights(tmp_path / "run" / "checkpoints" / "best.pt", "cpu")


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    texts = {"format": '"fcmae.weights.2"', "model": '"timm:resnet10t"', "class_names": '["a"]'}
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors", texts)
    with pytest.raises(UserError, match=r"fcmae\.weights\.2, from a newer version"):
        open_network(tmp_path, CPU)


def test_12_bit_images_are_read_as_in_training(run: Path, folder: Path, tmp_path: Path) -> None:
    """Pixels v of 255 and v of 4095 are the same where the weights say (0, 4095)."""
    deep, weights = tmp_path / "deep", tmp_path / "deep.safetensors"
    for path in folder.rglob("*.png"):
        if path.name != "torn.png":
            pixels = np.round(np.array(Image.open(path)) * (4095 / 255)).astype(np.uint16)
            (deep / path.parent.name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(deep / path.parent.name / path.name)
    trained = open_network(run, CPU)
    measured: dict[str, Any] = {"mean": trained.card.mean, "std": trained.card.std}
    images = replace(small_config(tmp_path).images, value_range=(0, 4095), **measured)
    config = small_config(tmp_path, images=images)
    save_network(trained.model.state_dict(), config, [str(i) for i in range(10)], {}, weights)
    assert load_weights(weights).card.value_range == (0, 4095)
    assert resolve(small_config(tmp_path, init=str(weights))).images.value_range == (0, 4095)

    def use(weights: Path, images: Path) -> list[str | bytes | float]:
        options: dict[str, Any] = {"workers": 0, "device": "cpu"}
        predict(weights, images, tmp_path / "results.csv", **options)
        embed(weights, images, tmp_path / "features.npz", **options)
        return [
            (tmp_path / "results.csv").read_text(),
            (tmp_path / "features.npz").read_bytes(),
            evaluate(weights, str(images), **options)["val_loss"],
            probe(weights, str(images), neighbors=3, **options)["linear"],
        ]

    assert use(weights, deep) == use(run, folder)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_use_computes_in_the_precision_asked_for(
    run: Path, folder: Path, tmp_path: Path, precision: str
) -> None:
    options: dict[str, Any] = {"workers": 0, "device": "cpu", "precision": precision}
    uses: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: evaluate(run, str(folder), **options),
        "probe": lambda: probe(run, str(folder), neighbors=3, **options),
        "predict": lambda: predict(run, folder, tmp_path / "results.csv", **options),
        "embed": lambda: embed(run, folder, tmp_path / "features.npz", **options),
    }
    for name, use in uses.items():
        seen: set[torch.dtype] = set()

        def note(_: Any, __: Any, out: torch.Tensor, seen: set[torch.dtype] = seen) -> None:
            seen.add(out.dtype)

        hook = register_module_forward_hook(note)
        try:
            use()
        finally:
            hook.remove()
        assert (torch.bfloat16 in seen) == (precision == "bf16"), name


def test_weights_that_do_not_fit_are_refused(run: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"20 x 20 is not a multiple of .* stride 8: the nearest is 16 x 16$"):
        evaluate(run, "digits", image_size=20, device="cpu")
    with pytest.raises(UserError, match=r"holds neither model\.safetensors"):
        evaluate(tmp_path, "digits", device="cpu")
    encoder = tmp_path / "official.pth"
    options = {"in_chans": NETWORK.in_chans or 1, "num_classes": 7}
    torch.save({"model": create_model("convnextv2_atto", **options).state_dict()}, encoder)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"has 10 classes and the head of .* has 7"):
        evaluate(encoder, str(folder), device="cpu", workers=0)
    torch.save({"model": create_model("convnextv2_atto", num_classes=0).state_dict()}, encoder)
    with pytest.raises(UserError, match="without a head: fine-tune it first"):
        predict(encoder, folder, tmp_path / "out.csv", device="cpu", workers=0)
