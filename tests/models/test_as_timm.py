"""What timm's networks answer to, ours answer to, and the answers are the same: every name, at a small width.

timm's network with our weights is the oracle. Shapes: B batch, C channels, H W pixels or positions.
"""

import io
import itertools
import warnings
from typing import Any, cast

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models._features import FeatureGetterNet
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import Tensor, nn

from fcmae import ConvNeXt, create_model, list_models
from fcmae.core.errors import UserError
from fcmae.models.formats import to_timm
from fcmae.models.sizes import find_size
from tests.conftest import Randomize
from tests.models.against_timm import assert_same, draw, names_of

NARROWER = 8
DEPTHS = (1, 2, 2, 1)
SIZES = [(32, 32), (33, 47), (70, 100), (161, 64)]
every = pytest.mark.parametrize("name", list_models())
v1_and_v2 = pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto"])


def small(name: str) -> dict[str, Any]:
    """Few blocks, an eighth of the width."""
    dims = tuple(dim // NARROWER for dim in find_size(name).dims)
    return {"depths": DEPTHS, "dims": dims}


def pair(
    name: str, randomize: Randomize, num_classes: int = 7, **options: Any
) -> tuple[ConvNeXt, TimmConvNeXt]:
    """Our network and timm's of that name, with the same weights, in float64."""
    ours = randomize(create_model(name, num_classes=num_classes, **small(name), **options)).double()
    theirs = timm.create_model(name, num_classes=num_classes, **small(name), **options).double()
    theirs.load_state_dict(theirs_of(ours, theirs))
    return ours, cast(TimmConvNeXt, theirs)


def theirs_of(ours: ConvNeXt, theirs: nn.Module) -> dict[str, Tensor]:
    """Our weights as timm's network takes them."""
    return to_timm(ours.state_dict(), pointwise_convs=isinstance(conv_or_linear(theirs), nn.Conv2d))


def conv_or_linear(theirs: nn.Module) -> nn.Module:
    return theirs.get_submodule("stages.0.blocks.0.mlp.fc1")


@every
def test_logits_at_any_size(name: str, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    for height, width in SIZES:
        images = draw(2, 3, height, width)
        assert_same(ours(images), theirs(images))


@every
def test_gradients_of_parameters_and_pixels(name: str, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    images = draw(2, 3, 45, 70), draw(2, 3, 45, 70)
    for network, pixels in zip((ours, theirs), images, strict=True):
        network(pixels.requires_grad_()).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    named = names_of(ours)
    assert set(named.values()) == set(gradients)
    for own, parameter in ours.named_parameters():
        expected = gradients[named[own]]
        assert expected is not None
        assert_relative(parameter.grad, expected.view(parameter.shape))
    assert_relative(images[0].grad, images[1].grad)


def assert_relative(found: Tensor | None, expected: Tensor | None) -> None:
    """Within 1e-9 of the largest value, which is not zero."""
    assert found is not None
    assert expected is not None
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


@every
def test_maps_and_what_feature_info_says_of_them(name: str, randomize: Randomize) -> None:
    whole, _ = pair(name, randomize)
    images = draw(1, 3, 70, 100)
    for out_indices in ((0, 1, 2, 3), (0, 2), (-3, -2)):
        options: dict[str, Any] = {"features_only": True, "out_indices": out_indices, **small(name)}
        ours, theirs = create_model(name, **options).double(), timm.create_model(name, **options).double()
        ours.load_state_dict({key: whole.state_dict()[key] for key in ours.state_dict()})
        flat = {key.replace("stages.", "stages_").replace("stem.", "stem_") for key in theirs.state_dict()}
        renamed = {
            key.replace("stages.", "stages_", 1).replace("stem.", "stem_", 1): tensor
            for key, tensor in theirs_of_list(whole, theirs).items()
        }
        theirs.load_state_dict({key: renamed[key] for key in flat})
        assert_same(ours(images), theirs(images))
        for fact in ("channels", "reduction", "module_name"):
            assert getattr(ours.feature_info, fact)() == getattr(theirs.feature_info, fact)()


def theirs_of_list(ours: ConvNeXt, theirs: nn.Module) -> dict[str, Tensor]:
    """Our weights as timm's list of stages takes them."""
    first = theirs.get_submodule("stages_0.blocks.0.mlp.fc1")
    return to_timm(ours.state_dict(), pointwise_convs=isinstance(first, nn.Conv2d))


@v1_and_v2
@pytest.mark.parametrize("indices", [None, 1, 3, [0, 2], [-1], (1,)])
def test_intermediate_maps(name: str, indices: Any, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    images = draw(1, 3, 45, 70)
    for norm, stop_early, intermediates_only in itertools.product((False, True), repeat=3):
        options: dict[str, Any] = {
            "norm": norm,
            "stop_early": stop_early,
            "intermediates_only": intermediates_only,
        }
        found = ours.forward_intermediates(images, indices, **options)
        assert_same(found, theirs.forward_intermediates(images, indices, **options))


@v1_and_v2
def test_timm_s_feature_getter_takes_ours(name: str, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    images = draw(1, 3, 45, 70)
    wanted = FeatureGetterNet(theirs, out_indices=(0, 2))(images)
    assert_same(FeatureGetterNet(ours, out_indices=(0, 2))(images), wanted)


@v1_and_v2
def test_the_steps_of_forward(name: str, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    images = draw(2, 3, 45, 70)
    features = ours.forward_features(images)
    assert_same(features, theirs.forward_features(images))
    for pre_logits in (False, True):
        assert_same(ours.forward_head(features, pre_logits), theirs.forward_head(features, pre_logits))
    assert (ours.num_features, ours.head_hidden_size) == (theirs.num_features, theirs.head_hidden_size)


@v1_and_v2
@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("global_pool", [None, "", "avg"])
def test_the_classifier_is_given_anew(
    name: str, num_classes: int, global_pool: str | None, randomize: Randomize
) -> None:
    ours, theirs = pair(name, randomize)
    for network in (ours, theirs):
        network.reset_classifier(num_classes, global_pool)
    assert ours.num_classes == theirs.num_classes == num_classes
    fresh = theirs.get_classifier()
    if num_classes:
        kept = dict(fresh.named_parameters())
        with torch.no_grad():
            for key, parameter in randomize(ours.get_classifier()).named_parameters():
                kept[key].copy_(parameter.view(kept[key].shape))
    assert_same(ours(draw(2, 3, 70, 100)), theirs(draw(2, 3, 70, 100)))


@every
@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_timm_s_optimiser_factory(name: str, layer_decay: float | None, randomize: Randomize) -> None:
    """The same weight decay and the same scale of the learning rate for every parameter."""
    ours, theirs = pair(name, randomize)
    named = names_of(ours)
    options: dict[str, Any] = {"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "layer_decay": layer_decay}
    groups = [create_optimizer_v2(network, **options).param_groups for network in (ours, theirs)]
    found, expected = (
        settings_of(network, each) for network, each in zip((ours, theirs), groups, strict=True)
    )
    assert {named[key]: value for key, value in found.items()} == expected
    assert len({decay for decay, _ in expected.values()}) == 2
    assert (len({scale for _, scale in expected.values()}) > 4) == (layer_decay is not None)


@v1_and_v2
def test_timm_s_layer_decay(name: str, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    named = names_of(ours)
    found = settings_of(ours, param_groups_layer_decay(ours, no_weight_decay_list=ours.no_weight_decay()))
    assert {named[key]: value for key, value in found.items()} == settings_of(
        theirs, param_groups_layer_decay(theirs)
    )


def settings_of(network: nn.Module, groups: Any) -> dict[str, tuple[float, float]]:
    """Weight decay and scale of the learning rate of each parameter, by its name."""
    of_parameter = {
        id(parameter): (group["weight_decay"], group.get("lr_scale", 1.0))
        for group in groups
        for parameter in group["params"]
    }
    return {name: of_parameter[id(parameter)] for name, parameter in network.named_parameters()}


@every
@pytest.mark.parametrize("coarse", [False, True])
def test_layers_are_grouped(name: str, coarse: bool, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    named = names_of(ours)
    found, expected = (
        group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
        for network in (ours, theirs)
    )
    assert {named[key]: layer for key, layer in found.items()} == expected


@every
def test_only_grn_is_not_decayed_by_name(name: str, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    named = names_of(ours)
    wide = {key for key, parameter in ours.named_parameters() if parameter.ndim > 1}
    one_dimensional = {key for key, parameter in theirs.named_parameters() if parameter.ndim == 1}
    assert {key for key in wide if named[key] in one_dimensional} == ours.no_weight_decay()


@v1_and_v2
def test_checkpointing_changes_no_gradient(name: str, randomize: Randomize) -> None:
    ours, theirs = pair(name, randomize)
    images = draw(2, 3, 45, 70)
    for network in (ours, theirs):
        network.train().set_grad_checkpointing()
        network(images).square().mean().backward()
    gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        expected = gradients[names_of(ours)[key]]
        assert expected is not None
        assert_relative(parameter.grad, expected.view(parameter.shape))


@every
def test_graphs(name: str, randomize: Randomize) -> None:
    """Of torch.fx and torch.export."""
    ours, _ = pair(name, randomize)
    ours.eval()
    images, others = draw(2, 3, 45, 70), draw(2, 3, 45, 70).flip(2)
    assert_same(torch.fx.symbolic_trace(ours)(others), ours(others))
    assert_same(torch.export.export(ours, (images,)).module()(others), ours(others))


@v1_and_v2
def test_a_trace_for_torchscript(name: str, randomize: Randomize) -> None:
    """It can be saved and takes another batch of another size; tracing warns of its own end alone."""
    ours, _ = pair(name, randomize)
    ours.eval()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", "`torch.jit", category=category)
        torch.jit.save(torch.jit.trace(ours, draw(2, 3, 45, 70)), file)
        file.seek(0)
        traced = torch.jit.load(file)
    images = draw(3, 3, 64, 100)
    assert_same(traced(images), ours(images))


@v1_and_v2
def test_gradients_through_a_traced_graph(name: str, randomize: Randomize) -> None:
    ours, _ = pair(name, randomize)
    images = draw(2, 3, 45, 70)
    graph = torch.fx.symbolic_trace(ours.train())
    found = torch.autograd.grad(graph(images).sum(), list(graph.parameters()))
    assert_same(found, torch.autograd.grad(ours(images).sum(), list(ours.parameters())))


def test_what_timm_has_and_we_do_not_is_refused(randomize: Randomize) -> None:
    ours, _ = pair("convnextv2_atto", randomize)
    with pytest.raises(UserError, match=r"global_pool 'max'"):
        ours.reset_classifier(3, "max")
    with pytest.raises(UserError, match=r"output_fmt 'NHWC'"):
        ours.forward_intermediates(draw(1, 3, 32, 32), output_fmt="NHWC")
    with pytest.raises(UserError, match=r"stages \[4\]"):
        ours.forward_intermediates(draw(1, 3, 32, 32), [4])
