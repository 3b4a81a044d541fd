"""Weights in every form that is understood give the logits of the library that they come from, and return."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    ConvNextV2Model,
)

from fcmae import create_model
from fcmae.models.formats import to_ours, to_timm, to_transformers
from fcmae.models.layouts.minkowski import import_engine
from fcmae.models.weights import (
    create_model_from,
    load_weights,
)
from tests.conftest import Randomize

SIZE: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 20)}
V1, V2 = "convnext_tiny", "convnextv2_tiny"


def timm_v1() -> nn.Module:
    return timm.create_model("convnext_tiny", num_classes=6, ls_init_value=1.0, **SIZE)


def timm_v2(name: str = "convnextv2_tiny", **options: Any) -> nn.Module:
    return timm.create_model(name, **{"num_classes": 6, **SIZE, **options})


def timm_v2_with_1x1_convolutions() -> nn.Module:
    return timm_v2("convnextv2_atto")


def timm_v2_without_head() -> nn.Module:
    return timm_v2(num_classes=0)


def timm_v2_of_two_channels() -> nn.Module:
    return timm_v2(in_chans=2)


def transformers_config(kind: type, **options: Any) -> Any:
    return kind(
        depths=list(SIZE["depths"]),
        hidden_sizes=list(SIZE["dims"]),
        num_labels=6,
        layer_norm_eps=1e-6,
        **options,
    )


def transformers_v1() -> nn.Module:
    return ConvNextForImageClassification(transformers_config(ConvNextConfig, layer_scale_init_value=1.0))


def transformers_v2() -> nn.Module:
    return ConvNextV2ForImageClassification(transformers_config(ConvNextV2Config))


def transformers_v2_without_head() -> nn.Module:
    return ConvNextV2Model(transformers_config(ConvNextV2Config))


def transformers_v2_of_stride_16() -> nn.Module:
    return ConvNextV2ForImageClassification(transformers_config(ConvNextV2Config, patch_size=2))


THEIRS = [
    timm_v1,
    timm_v2,
    timm_v2_with_1x1_convolutions,
    timm_v2_without_head,
    timm_v2_of_two_channels,
    transformers_v1,
    transformers_v2,
    transformers_v2_without_head,
    transformers_v2_of_stride_16,
]


def outputs(model: nn.Module, in_chans: int = 3) -> Tensor:
    """Logits, or pooled features where there is no head."""
    images = torch.randn(2, in_chans, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        out = model.eval()(images)
    if not isinstance(out, Tensor):
        out = out.logits if "logits" in out else out.pooler_output
    assert isinstance(out, Tensor)
    return out


def sparse_form(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the authors' sparse FCMAE: engine kernels entry by entry, as their documents say."""
    sparse: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner, _, kind = ("encoder." + name).rpartition(".")
        layer = owner.rpartition(".")[2]
        is_stem = name.startswith("downsample_layers.0.")  # dense in the sparse model too
        if tensor.ndim == 4 and kind == "weight" and not is_stem:
            rows = [
                tensor[:, :, y, x].T if layer != "dwconv" else tensor[:, 0, y, x]
                for x in range(tensor.shape[3])
                for y in range(tensor.shape[2])
            ]
            sparse[f"{owner}.kernel"] = torch.stack(rows)
        elif layer in ("pwconv1", "pwconv2"):
            sparse[f"{owner}.linear.{kind}"] = tensor
        elif layer == "norm" or (tensor.ndim == 1 and layer == "0" and not is_stem):
            sparse[f"{owner}.ln.{kind}"] = tensor
        elif layer == "grn":
            sparse[f"{owner}.{kind}"] = tensor.view(1, -1)
        else:
            sparse[f"{owner}.{kind}"] = tensor if is_stem else tensor[None]
    extra = ("proj.kernel", "proj.bias", "mask_token", "decoder.0.dwconv.weight", "pred.weight")
    return sparse | {name: torch.zeros(3) for name in extra}


@pytest.mark.parametrize("build", THEIRS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_theirs_gives_their_logits(
    build: Callable[[], nn.Module], suffix: str, randomize: Randomize, tmp_path: Path
) -> None:
    theirs = randomize(build())
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(theirs.state_dict(), path)
    weights = load_weights(path)
    channels = weights.card.in_chans
    torch.testing.assert_close(
        outputs(create_model_from(weights), channels), outputs(theirs, channels), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("build", THEIRS)
def test_ours_in_their_form_is_what_their_library_wrote(
    build: Callable[[], nn.Module], randomize: Randomize
) -> None:
    theirs = randomize(build()).state_dict()
    ours = to_ours(theirs)
    if "stem.0.weight" in theirs:
        returned = to_timm(ours, pointwise_convs=theirs["stages.0.blocks.0.mlp.fc1.weight"].ndim == 4)
    else:
        returned = to_transformers(ours)
    assert returned.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(returned[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("name", [V1, V2])
def test_an_official_fine_tuned_file(name: str, randomize: Randomize, tmp_path: Path) -> None:
    model = randomize(create_model(name, num_classes=6, **SIZE))
    path = tmp_path / "checkpoint-best.pth"
    torch.save({"model": model.state_dict(), "epoch": 3, "args": Namespace(lr=1e-3)}, path)
    weights = load_weights(path)
    assert weights.num_classes == 6
    torch.testing.assert_close(outputs(create_model_from(weights)), outputs(model), rtol=0, atol=0)


def test_an_official_fine_tuned_file_gives_one_answer_everywhere(
    randomize: Randomize, tmp_path: Path
) -> None:
    official = {"model": randomize(create_model(V2, num_classes=6, **SIZE)).state_dict()}
    torch.save(official, tmp_path / "official.pt")
    weights = load_weights(tmp_path / "official.pt")
    logits = outputs(create_model_from(weights))
    of_timm, of_transformers = timm_v2(), transformers_v2()
    of_timm.load_state_dict(checkpoint_filter_fn(official, of_timm))  # timm's own reading of such files
    of_transformers.load_state_dict(to_transformers(weights.state))
    for theirs in (of_timm, of_transformers):
        torch.testing.assert_close(outputs(theirs), logits, rtol=1e-5, atol=1e-5)


def test_the_official_sparse_form_gives_the_dense_network(randomize: Randomize, tmp_path: Path) -> None:
    model = randomize(create_model(V2, features_only=True, **SIZE))
    path = tmp_path / "checkpoint-799.pth"
    torch.save({"model": sparse_form(model)}, path)
    loaded = create_model_from(load_weights(path), features_only=True)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_kernels_of_the_engine_itself_give_the_dense_convolution(randomize: Randomize) -> None:
    try:
        engine = import_engine()
    except ImportError as error:
        pytest.skip(str(error))
    sites = torch.cartesian_prod(torch.arange(1), torch.arange(8), torch.arange(6)).int()
    features = torch.randn(48, 4, generator=torch.Generator().manual_seed(2))
    full: Any = randomize(engine.MinkowskiConvolution(4, 5, kernel_size=2, stride=2, bias=True, dimension=2))
    depthwise: Any = randomize(
        engine.MinkowskiChannelwiseConvolution(4, kernel_size=7, bias=True, dimension=2)
    )
    state = {
        "encoder.downsample_layers.0.0.kernel": full.kernel.detach(),
        "encoder.stages.0.0.dwconv.kernel": depthwise.kernel.detach(),
    }
    dense = to_ours(state)
    image = features.view(1, 8, 6, 4).permute(0, 3, 1, 2)
    expected = {
        "downsample_layers.0.0.weight": (full, {"stride": 2}),
        "stages.0.0.dwconv.weight": (depthwise, {"padding": 3, "groups": 4}),
    }
    for name, (module, options) in expected.items():
        out = module(engine.SparseTensor(features, coordinates=sites)).dense()[0]
        same = nn.functional.conv2d(image, dense[name], module.bias.detach()[0], **options)
        torch.testing.assert_close(same, out.detach(), rtol=1e-5, atol=1e-5)


def test_another_network_is_refused_with_what_is_understood(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"not a ConvNeXt: it holds conv1\.weight.*understood are .*timm"):
        load_weights(tmp_path / "resnet.pth")
