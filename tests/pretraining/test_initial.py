"""Going on from trained weights: what is taken over, what learns when, and the guard on the features."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fcmae import create_model
from fcmae.core.errors import UserError
from fcmae.core.settings import read_settings
from fcmae.engine.checkpoint import Checkpoints
from fcmae.launch.cli.main import main
from fcmae.models.card import Card
from fcmae.models.formats import to_timm
from fcmae.models.storage import save_weights
from fcmae.pretraining.config import EncoderConfig, PretrainConfig
from fcmae.pretraining.initial import find_decoder, gentle_groups, load_initial
from fcmae.pretraining.model import FCMAE
from fcmae.pretraining.prepare import check
from tests.conftest import Randomize

SIZE: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 8, 12, 16)}
SMALL = [
    "--image-size",
    "32",
    "--batch-size",
    "8",
    "--decoder.dim",
    "8",
    "--images.workers",
    "0",
    "--device",
    "cpu",
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(16):
        pixels = generator.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def network(**options: Any) -> FCMAE:
    return FCMAE("convnextv2_tiny", **{"image_size": 64, "decoder_dim": 8, **SIZE, **options})


def encoder_file(tmp_path: Path, randomize: Randomize, **known: Any) -> Path:
    encoder = randomize(create_model("convnextv2_tiny", features_only=True, stem_stride=1, **SIZE))
    options = {"in_chans": 3, "stem_stride": 1, **SIZE}
    save_weights(
        tmp_path / "own.safetensors",
        encoder.state_dict(),
        Card(model="convnextv2_tiny", options=options, **known),
    )
    return tmp_path / "own.safetensors"


def pretrain(*options: str) -> int:
    return main(["pretrain", *SMALL, *options])


def state_of(run: Path, file: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run / "checkpoints" / file, weights_only=True)["model"]
    return state


def test_the_encoder_is_taken_and_the_decoder_where_it_fits(randomize: Randomize, tmp_path: Path) -> None:
    trained = randomize(network())
    torch.save({"model": trained.state_dict()}, tmp_path / "whole.pt")
    whole, wider = network(), network(decoder_dim=16)
    assert load_initial(whole, str(tmp_path / "whole.pt"))
    assert all(torch.equal(tensor, trained.state_dict()[name]) for name, tensor in whole.state_dict().items())
    before = wider.pred.weight.clone()
    assert not load_initial(wider, str(tmp_path / "whole.pt"))
    assert torch.equal(wider.encoder.stages[0][0].norm.weight, trained.encoder.stages[0][0].norm.weight)
    assert torch.equal(wider.pred.weight, before)


def test_a_decoder_is_found_behind_any_prefix() -> None:
    model = network()
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    wrapped: dict[str, Any] = {
        "epoch": 3,
        "net": {f"module.{name}": tensor.flatten() for name, tensor in own.items()},
    }
    found = find_decoder(wrapped, own)
    assert found is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in own.items())
    del wrapped["net"]["module.pred.bias"]
    assert find_decoder(wrapped, own) is None


@pytest.mark.parametrize("form", ["timm", "fine-tuned"])
def test_weights_of_others_are_taken(form: str, randomize: Randomize, tmp_path: Path) -> None:
    trained = randomize(create_model("convnextv2_tiny", num_classes=5, **SIZE))
    state = to_timm(trained.state_dict()) if form == "timm" else trained.state_dict()
    torch.save(state, tmp_path / "weights.pt")
    model = network()
    load_initial(model, str(tmp_path / "weights.pt"))
    assert torch.equal(
        model.encoder.stages[3][0].pwconv1.weight, trained.get_parameter("stages.3.0.pwconv1.weight")
    )


def test_a_stem_for_other_channels_is_adapted(randomize: Randomize, tmp_path: Path) -> None:
    model = FCMAE("convnextv2_tiny", image_size=32, decoder_dim=8, in_chans=12, stem_stride=1, **SIZE)
    load_initial(model, str(encoder_file(tmp_path, randomize)))
    weight = model.encoder.downsample_layers[0][0].weight
    assert weight.shape[1] == 12
    assert torch.equal(weight[:, :3], weight[:, 3:6])


def test_an_encoder_of_another_architecture_is_refused(tmp_path: Path, randomize: Randomize) -> None:
    deeper = FCMAE("convnextv2_tiny", image_size=64, decoder_dim=8, depths=(1, 2, 1, 1), dims=SIZE["dims"])
    with pytest.raises(UserError, match=r"stages\.1\.1.*--model"):
        load_initial(deeper, str(encoder_file(tmp_path, randomize)))


def test_the_first_stages_learn_more_slowly_and_the_encoder_later() -> None:
    model = network()
    groups = gentle_groups(model, 0.05, stage_decay=0.5, first_step=7)
    rates = {id(each): group for group in groups for each in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    expected = {"stages.0": 0.125, "stages.2": 0.5, "stages.3": 1.0, "downsample_layers.1": 0.25}
    for name, parameter in model.named_parameters():
        group = rates[id(parameter)]
        assert group.get("first_step", 0) == (7 if name.startswith("encoder.") else 0)
        for part, scale in expected.items():
            if name.startswith(f"encoder.{part}."):
                assert group["lr_scale"] == scale
        if not name.startswith("encoder."):
            assert group.get("lr_scale", 1.0) == 1.0
        assert (group["weight_decay"] == 0) == (
            parameter.ndim == 1 or name.endswith(("gamma", "beta", "token"))
        )


def test_a_missing_decoder_learns_alone_first(photos: Path, tmp_path: Path, randomize: Randomize) -> None:
    init, run = encoder_file(tmp_path, randomize, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2)), tmp_path / "run"
    options = ["--init", str(init), "--data", str(photos), "--out", str(run), "--epochs", "3"]
    assert pretrain(*options, "--init-warmup", "1", "--loop.keep", "9") == 0
    config = read_settings(PretrainConfig, run / "config.yaml")
    assert (config.model, config.network.stem_stride, config.network.dims) == (
        "convnextv2_tiny",
        1,
        SIZE["dims"],
    )
    assert (config.images.mean, config.stage_decay) == ((0.4, 0.5, 0.6), 0.7)
    given = load_encoder(init)
    first, last = (state_of(run, f"step_{step:09}.pt") for step in (2, 6))
    assert all(torch.equal(first[f"encoder.{name}"], tensor) for name, tensor in given.items())
    assert not torch.equal(first["pred.weight"], last["pred.weight"])
    changed = [not torch.equal(last[f"encoder.{name}"], tensor) for name, tensor in given.items()]
    assert sum(changed) > len(changed) / 2


def load_encoder(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_it_goes_on_where_it_was_stopped_without_the_weights(
    photos: Path, tmp_path: Path, randomize: Randomize
) -> None:
    init = encoder_file(tmp_path, randomize)
    options = [
        "--init",
        str(init),
        "--data",
        str(photos),
        "--epochs",
        "4",
        "--init-warmup",
        "2",
        "--probe-every",
        "1",
    ]
    options += ["--loop.keep", "9"]
    assert pretrain(*options, "--out", str(tmp_path / "whole")) == 0
    assert pretrain(*options, "--out", str(tmp_path / "stopped")) == 0
    for step in (4, 6, 8):
        (tmp_path / "stopped" / "checkpoints" / f"step_{step:09}.pt").unlink()
    weights = init.read_bytes()
    init.write_bytes(weights[:-1] + b"?")  # other weights would be noticed: they are not read again
    assert pretrain(*options, "--out", str(tmp_path / "stopped")) == 0
    whole, stopped = (Checkpoints(tmp_path / name / "checkpoints").newest() for name in ("whole", "stopped"))
    assert whole is not None
    assert stopped is not None
    assert all(torch.equal(whole["model"][name], stopped["model"][name]) for name in whole["model"])
    assert whole["worth"] == stopped["worth"]


def test_features_that_get_worse_are_told(
    photos: Path, tmp_path: Path, randomize: Randomize, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    init, run = encoder_file(tmp_path, randomize), tmp_path / "run"
    options = [
        "--init",
        str(init),
        "--data",
        str(photos),
        "--out",
        str(run),
        "--epochs",
        "3",
        "--probe-every",
        "1",
    ]
    assert pretrain(
        *options, "--optim.lr", "0.5", "--optim.warmup-epochs", "0", "--optim.clip-grad", "none"
    ) in (0, 2)
    assert "worth LESS" in caplog.text
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "rank" in record][:1] == [1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--init", "nowhere"], "nowhere"),
        (["--init-warmup", "2"], "--init"),
        (["--init", "own.safetensors", "--init-warmup", "9", "--epochs", "9"], "init_warmup"),
        (["--init", "own.safetensors", "--stage-decay", "1.5"], "stage_decay"),
        (["--held-out", "-1"], "held_out"),
        (["--held-out", "10"], "10 are held out"),
    ],
)
def test_what_cannot_be_is_refused(
    options: list[str],
    named: str,
    photos: Path,
    tmp_path: Path,
    randomize: Randomize,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder_file(tmp_path, randomize)
    assert pretrain("--data", str(photos), "--network.stem-stride", "1", *options) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("side", "stride", "told"), [(64, 4, "stem-stride 2"), (32, 4, "stem-stride 1"), (64, 2, "")]
)
def test_few_patches_are_told_with_a_remedy(
    side: int, stride: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = PretrainConfig(image_size=side, mask_ratio=0.4, network=EncoderConfig(stem_stride=stride))
    if side == 32:
        with pytest.raises(UserError):
            check(config)  # one patch is no puzzle at all
        return
    check(config)
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
