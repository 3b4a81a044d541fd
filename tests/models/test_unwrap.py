"""Checkpoints of other trainers: the network is found behind any prefix, and doubt is refused."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from fcmae import create_model
from fcmae.core.errors import UserError
from fcmae.models.convnext import ConvNeXt
from fcmae.models.formats import to_timm
from fcmae.models.weights import Weights, create_model_from, load_weights
from tests.conftest import Randomize

SIZE: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 20)}
State = dict[str, Tensor]


@pytest.fixture
def model(randomize: Randomize) -> ConvNeXt:
    return randomize(create_model("convnextv2_tiny", num_classes=6, **SIZE))


def behind(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def without_head(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "norm."))}


def mmpretrain(state: State) -> State:
    """Name the tensors of a classifier as mmpretrain's ConvNeXt does."""
    names = {"dwconv": "depthwise_conv", "pwconv": "pointwise_conv"}
    renamed = {}
    for name, tensor in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if name.startswith("head."):
            name = name.replace("head.", "head.fc.")
        else:
            name = "backbone." + ("norm3." + name[5:] if name.startswith("norm.") else name)
        renamed[name] = tensor.flatten() if ".grn." in name else tensor
    return renamed


WRAPPED: dict[str, Callable[[State], dict[str, Any]]] = {
    "compiled": lambda state: {"model": behind("_orig_mod.", state)},
    "compiled in DDP": lambda state: {"model": behind("module._orig_mod.", state)},
    "DDP compiled": lambda state: {"state_dict": behind("_orig_mod.module.", state)},
    "timm compiled": lambda state: {"state_dict": behind("_orig_mod.", to_timm(state))},
    "timm average": lambda state: {"state_dict": other(to_timm(state)), "state_dict_ema": to_timm(state)},
    "official average": lambda state: {"model": other(state), "model_ema": state, "scaler": {"scale": 2.0}},
    "Lightning": lambda state: {
        "state_dict": behind("model.", to_timm(state)),
        "hyper_parameters": {"lr": 1},
    },
    "Lightning with a metric": lambda state: {
        "state_dict": behind("net.", state) | {"accuracy.total": torch.ones(1), "loss.weight": torch.ones(6)}
    },
    "mmpretrain": lambda state: {"meta": {"epoch": 3}, "state_dict": mmpretrain(state)},
    "averaged": lambda state: behind("module.", state) | {"n_averaged": torch.tensor(5)},
    "params": lambda state: {"params": state},
    "net": lambda state: {"net": state, "acc": 91.5, "epoch": 3},
    "nested": lambda state: {"state": {"weights": {"backbone": state}}},
    "other tensors": lambda state: state | {"fc_norm.weight": torch.ones(3), "neck.0.bias": torch.ones(3)},
    "a number": lambda state: state | {"epoch": 3},
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_whole_network_is_found(wrap: str, model: ConvNeXt, tmp_path: Path) -> None:
    torch.save(WRAPPED[wrap](model.state_dict()), tmp_path / "wrapped.pt")
    check_same(create_model_from(load_weights(tmp_path / "wrapped.pt")), model)


ENCODERS: dict[str, Callable[[State], dict[str, Any]]] = {
    "Lightning backbone": lambda state: {"state_dict": behind("backbone.", without_head(state))},
    "contrastive": lambda state: {
        "state_dict": behind("backbone.", without_head(state)) | {"projection.0.weight": torch.ones(3, 20)}
    },
    "segmentation": lambda state: {
        "state_dict": behind("backbone.", without_head(state) | {"norm0.weight": torch.ones(8)})
        | {"decode_head.conv_seg.weight": torch.ones(3)}
    },
    "mmpretrain": lambda state: {"state_dict": mmpretrain(without_head(state))},
    "timm features": lambda state: {
        name.replace("stem.", "stem_").replace("stages.", "stages_"): tensor
        for name, tensor in to_timm(without_head(state)).items()
    },
}


@pytest.mark.parametrize("wrap", ENCODERS)
def test_an_encoder_is_found(wrap: str, model: ConvNeXt, tmp_path: Path) -> None:
    torch.save(ENCODERS[wrap](model.state_dict()), tmp_path / "wrapped.pt")
    weights = load_weights(tmp_path / "wrapped.pt")
    assert weights.num_classes == 0
    expected = without_head(model.state_dict())
    assert weights.state.keys() == expected.keys()
    assert all(torch.equal(weights.state[name], tensor) for name, tensor in expected.items())


def test_the_features_of_timm_are_named_as_here() -> None:
    network = timm.create_model("convnextv2_tiny", features_only=True, **SIZE)
    whole = timm.create_model("convnextv2_tiny", **SIZE).state_dict()
    renamed = {name.replace("stem.", "stem_").replace("stages.", "stages_") for name in without_head(whole)}
    assert network.state_dict().keys() == renamed


def test_torchvisions_network_gives_its_logits(randomize: Randomize, tmp_path: Path) -> None:
    theirs: nn.Module = randomize(torchvision.models.convnext_tiny(num_classes=3))
    torch.save(theirs.state_dict(), tmp_path / "convnext.pt")
    weights = load_weights(tmp_path / "convnext.pt")
    assert (weights.card.model, weights.num_classes) == ("convnext_tiny", 3)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(
            create_model_from(weights).eval()(images), theirs.eval()(images), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype: torch.dtype, model: ConvNeXt, tmp_path: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "half.pt")
    read = create_model_from(load_weights(tmp_path / "half.pt")).state_dict()
    assert all(torch.equal(read[name], tensor.float()) for name, tensor in state.items())


AMBIGUOUS: dict[str, Callable[[State], dict[str, Any]]] = {
    "student, teacher.backbone": lambda state: {
        "student": behind("module.", other(state)),
        "teacher": behind("backbone.", state),
    },
    "encoder_q, encoder_k": lambda state: behind("encoder_q.", other(state)) | behind("encoder_k.", state),
}


@pytest.mark.parametrize(
    ("choice", "wrap"), [("teacher", "student, teacher.backbone"), ("encoder_k", "encoder_q, encoder_k")]
)
def test_of_several_one_is_chosen_by_name(choice: str, wrap: str, model: ConvNeXt, tmp_path: Path) -> None:
    torch.save(AMBIGUOUS[wrap](model.state_dict()), tmp_path / "two.pt")
    with pytest.raises(UserError) as refused:
        load_weights(tmp_path / "two.pt")
    assert choice in str(refused.value)
    assert "#" in str(refused.value)
    check_same(create_model_from(load_weights(f"{tmp_path}/two.pt#{choice}")), model)
    with pytest.raises(UserError, match="decoy.*" + choice):
        load_weights(f"{tmp_path}/two.pt#decoy")


def test_plain_weights_beside_their_average_can_be_chosen(model: ConvNeXt, tmp_path: Path) -> None:
    torch.save(WRAPPED["timm average"](model.state_dict()), tmp_path / "both.pth.tar")
    plain = load_weights(f"{tmp_path}/both.pth.tar#state_dict")
    assert torch.equal(plain.state["norm.bias"], model.state_dict()["norm.bias"] + 1)


def test_a_file_with_the_mark_in_its_name(model: ConvNeXt, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "run#3.pt")
    check_same(create_model_from(load_weights(tmp_path / "run#3.pt")), model)


def test_what_is_taken_is_told(model: ConvNeXt, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.save(WRAPPED["official average"](model.state_dict()), tmp_path / "both.pt")
    torch.save(WRAPPED["other tensors"](model.state_dict()), tmp_path / "more.pt")
    load_weights(tmp_path / "both.pt")
    assert "model_ema" in caplog.text
    caplog.clear()
    load_weights(tmp_path / "more.pt")
    assert "2 tensors" in caplog.text


def check_same(read: ConvNeXt, expected: ConvNeXt) -> None:
    """Compare two networks' weights bit for bit."""
    state = expected.state_dict()
    assert read.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in read.state_dict().items())


def test_a_choice_is_part_of_what_is_read(model: ConvNeXt, tmp_path: Path) -> None:
    torch.save({"model": model.state_dict()}, tmp_path / "one.pt")
    weights: Weights = load_weights(f"{tmp_path}/one.pt#model")
    assert weights.num_classes == 6
