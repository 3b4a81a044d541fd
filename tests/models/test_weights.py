"""Weights find their architecture, heads and stems are fitted, and what is no ConvNeXt is refused."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from fcmae import ConvNeXt, create_model
from fcmae.core.errors import UserError
from fcmae.data.config import ImagesConfig
from fcmae.models.card import Card
from fcmae.models.storage import save_weights
from fcmae.models.weights import (
    Weights,
    adapt_input_channels,
    create_model_from,
    load_into,
    load_weights,
    match_classes,
)
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.model import FCMAE
from fcmae.pretraining.task import encoder_card
from tests.conftest import Randomize

SIZE: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 20)}
V1, V2 = "convnext_tiny", "convnextv2_tiny"


def outputs(model: nn.Module, in_chans: int = 3) -> Tensor:
    """Logits, or pooled features where there is no head."""
    images = torch.randn(2, in_chans, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = model.eval()(images)
    assert isinstance(out, Tensor)
    return out


@pytest.fixture
def trained(randomize: Randomize) -> ConvNeXt:
    return randomize(create_model(V2, num_classes=6, **SIZE))


def weights_of(model: nn.Module, folder: Path, **known: Any) -> Weights:
    path = folder / "weights.safetensors"
    save_weights(path, model.state_dict(), Card(model="convnextv2_tiny", options={}, **known))
    return load_weights(path)


def test_a_run_of_ours_and_its_checkpoint_hold_the_same_encoder(randomize: Randomize, tmp_path: Path) -> None:
    model = randomize(FCMAE("convnextv2_atto", image_size=(64, 32), stem_stride=2, decoder_dim=8, **SIZE))
    config = PretrainConfig(data="photos", images=ImagesConfig(value_range=(0, 4095)))
    described = encoder_card(config, model.image_size, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    save_weights(tmp_path / "encoder.safetensors", model.encoder.state_dict(), described)
    torch.save({"model": model.state_dict(), "optimizer": {"step": 3}, "epoch": 1}, tmp_path / "step.pt")
    run, checkpoint = load_weights(tmp_path), load_weights(tmp_path / "step.pt")
    card = run.card
    assert (card.image_size, card.mean, card.std) == ((64, 32), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert card.value_range == (0, 4095)
    assert card.pretraining == {"data": "photos", "epochs": config.epochs, "mask_ratio": config.mask_ratio}
    assert checkpoint.card == Card(model="convnextv2_tiny", options=card.options)
    for weights in (run, checkpoint):
        assert weights.card.options == {"in_chans": 3, "stem_stride": 2, **SIZE}
        encoder = create_model_from(weights, features_only=True).state_dict()
        assert encoder.keys() == model.encoder.state_dict().keys()
        assert all(torch.equal(tensor, model.encoder.state_dict()[name]) for name, tensor in encoder.items())


def test_a_published_size_is_known_by_its_tensors(tmp_path: Path) -> None:
    weights = weights_of(create_model("convnextv2_femto", num_classes=3, in_chans=1), tmp_path)
    assert weights.card.model == "convnextv2_femto"
    assert weights.card.options == {"in_chans": 1, "stem_stride": 4}


def test_a_head_of_another_size_is_initialised_and_said_so(
    trained: ConvNeXt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = weights_of(trained, tmp_path)
    caplog.set_level(logging.WARNING)
    kept = create_model_from(weights, num_classes=6)
    assert not caplog.messages
    fresh = create_model_from(weights, num_classes=4, head_init_scale=0.001)
    assert caplog.messages == ["head: initialised for 4 classes, the weights have one of 6"]
    before, same, anew = trained.state_dict(), kept.state_dict(), fresh.state_dict()
    assert torch.equal(same["head.weight"], before["head.weight"])
    assert anew["head.weight"].abs().max() < 1e-3
    assert torch.equal(anew["norm.weight"], before["norm.weight"])


def test_shared_classes_keep_their_rows(trained: ConvNeXt, tmp_path: Path) -> None:
    names = ["ant", "bee", "cat", "dog", "elk", "fox"]
    weights = weights_of(trained, tmp_path, class_names=tuple(names))
    assert weights.card.class_names == tuple(names)
    rows = match_classes(names, ["fox", "gnu", "bee"])
    assert rows == [5, None, 1]
    model = create_model_from(weights, num_classes=3, class_rows=rows, head_init_scale=0.0)
    none = torch.zeros(3)
    expected = torch.stack([outputs(trained)[:, 5], none[:2], outputs(trained)[:, 1]], dim=1)
    torch.testing.assert_close(outputs(model), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"), [([0, 1], "2 rows for a head of 3"), ([0, 6, 1], "row 6"), ([0, -1, 1], "row -1")]
)
def test_class_rows_that_the_heads_do_not_have(
    rows: list[int], message: str, trained: ConvNeXt, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        create_model_from(weights_of(trained, tmp_path), num_classes=3, class_rows=rows)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_a_stem_for_other_channels_is_timms(channels: int, trained: ConvNeXt, tmp_path: Path) -> None:
    weights = weights_of(trained, tmp_path)
    stem = create_model_from(weights, in_chans=channels).get_parameter("downsample_layers.0.0.weight")
    expected = adapt_input_conv(channels, weights.state["downsample_layers.0.0.weight"])
    torch.testing.assert_close(stem, expected)


def test_a_stem_answers_equal_channels_alike() -> None:
    weight = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    one = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    expected = nn.functional.conv2d(one.expand(-1, 2, -1, -1), weight)
    for channels in (1, 4, 6):  # one, and multiples of the two that there are
        adapted = adapt_input_channels(weight, channels)
        torch.testing.assert_close(nn.functional.conv2d(one.expand(-1, channels, -1, -1), adapted), expected)


def test_another_architecture_is_refused_untouched(trained: ConvNeXt, tmp_path: Path) -> None:
    model = create_model(V1, num_classes=6, depths=(1, 2, 1, 2), dims=SIZE["dims"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"convnextv2_tiny .*missing .*10 unexpected \(stages\.0\.0\.grn"):
        load_into(model, weights_of(trained, tmp_path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def without_a_bias(state: dict[str, Any]) -> None:
    del state["stages.1.1.pwconv2.bias"]


def with_another_key(state: dict[str, Any]) -> None:
    state["stages.0.0.aux.weight"] = torch.zeros(2)


def with_a_wrong_shape(state: dict[str, Any]) -> None:
    state["stages.0.0.pwconv1.weight"] = torch.zeros(3, 8)


def with_a_flat_stem(state: dict[str, Any]) -> None:
    state["downsample_layers.0.0.weight"] = torch.zeros(8)


def with_a_wrong_stride(state: dict[str, Any]) -> None:
    state["downsample_layers.0.0.weight"] = torch.zeros(8, 3, 7, 7)


def with_a_block_far_away(state: dict[str, Any]) -> None:
    state["stages.0.999999999.dwconv.bias"] = torch.zeros(8)


def without_the_norm(state: dict[str, Any]) -> None:
    del state["norm.weight"], state["norm.bias"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_bias, r"1 missing \(stages\.1\.1\.pwconv2\.bias\)"),
        (with_another_key, r"1 unexpected \(stages\.0\.0\.aux\.weight\)"),
        (with_a_wrong_shape, r"1 mis-shaped \(stages\.0\.0\.pwconv1\.weight \(3, 8\) instead of \(32, 8\)\)"),
        (with_a_flat_stem, "downsample_layers.0.0.weight has 1 dimensions instead of 4"),
        (with_a_wrong_stride, "stem_stride 7"),
        (with_a_block_far_away, r"missing \(stages\.0\.1\..*unexpected \(stages\.0\.999999999"),
        (without_the_norm, r"2 missing \(norm\.weight, norm\.bias\)"),
    ],
)
def test_tensors_that_make_no_convnext(
    damage: Callable[[dict[str, Any]], None], message: str, trained: ConvNeXt, tmp_path: Path
) -> None:
    state = dict(trained.state_dict())
    damage(state)
    torch.save(state, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=r"damaged\.pt: .*" + message):
        load_weights(tmp_path / "damaged.pt")


def test_a_card_of_other_classes_is_refused(trained: ConvNeXt, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names 2 classes, the head has 6"):
        weights_of(trained, tmp_path, class_names=("a", "b"))
