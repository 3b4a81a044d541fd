"""The network against timm's and transformers', and what its options promise.

Shapes: B batch, C channels, H W positions.
"""

import copy
import re
from typing import Any

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

from fcmae import ConvNeXt, create_model, list_models
from fcmae.core.errors import UserError
from fcmae.models.block import GRN, Block, LayerNorm
from fcmae.models.layouts import create_layout
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.mask import Mask
from tests.conftest import Randomize

TINY: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (5, 7, 11, 13)}

TIMM_NAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"dwconv", "conv_dw"),
    (r"pwconv(\d)", r"mlp.fc\1"),
    (r"grn\.gamma", "mlp.grn.weight"),
    (r"grn\.beta", "mlp.grn.bias"),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)", r"head.fc.\1"),
)
TRANSFORMERS_NAMES = (
    (r"^downsample_layers\.0\.0\.", "convnextv2.embeddings.patch_embeddings."),
    (r"^downsample_layers\.0\.1\.", "convnextv2.embeddings.layernorm."),
    (r"^downsample_layers\.(\d)\.", r"convnextv2.encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d)\.(\d+)\.norm", r"stages.\1.\2.layernorm"),
    (r"^stages\.(\d)\.(\d+)\.", r"convnextv2.encoder.stages.\1.layers.\2."),
    (r"grn\.gamma", "grn.weight"),
    (r"grn\.beta", "grn.bias"),
    (r"^norm\.", "convnextv2.layernorm."),
    (r"^head\.", "classifier."),
)


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def block_of(network: ConvNeXt, name: str) -> Block:
    """The block of that name, such as stages.1.0."""
    block = network.get_submodule(name)
    assert isinstance(block, Block)
    return block


def grn_of(network: ConvNeXt, name: str) -> GRN:
    """GRN of the block of that name."""
    grn = block_of(network, name).grn
    assert grn is not None
    return grn


def assert_same_network(ours: ConvNeXt, theirs: nn.Module, rules: tuple[tuple[str, str], ...]) -> None:
    """The same logits and the same gradient of every parameter for the same weights, in float64."""
    ours, theirs = ours.double(), theirs.double()
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    weights = {renamed(name, rules): parameter for name, parameter in ours.named_parameters()}
    assert weights.keys() == shapes.keys()
    theirs.load_state_dict({name: tensor.detach().view(shapes[name]) for name, tensor in weights.items()})
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits, expected = ours(images), theirs(images)
    expected = getattr(expected, "logits", expected)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    for out in (logits, expected):
        out.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in weights.items():
        gradient = gradients[name]
        assert gradient is not None
        expected = gradient.view_as(parameter)
        scale = expected.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-9 * scale, msg=name)


def test_v2_agrees_with_timm(randomize: Randomize) -> None:
    ours = randomize(create_model("convnextv2_atto", num_classes=10))
    assert_same_network(ours, timm.create_model("convnextv2_atto", num_classes=10), TIMM_NAMES)


def test_v1_agrees_with_timm(randomize: Randomize) -> None:
    ours = randomize(create_model("convnext_tiny", num_classes=10, **TINY))
    theirs = TimmConvNeXt(num_classes=10, ls_init_value=1e-6, **TINY)
    assert_same_network(ours, theirs, TIMM_NAMES)


def test_v2_agrees_with_transformers(randomize: Randomize) -> None:
    ours = randomize(create_model("convnextv2_atto", num_classes=10, **TINY))
    config = ConvNextV2Config(
        depths=list(TINY["depths"]), hidden_sizes=list(TINY["dims"]), layer_norm_eps=1e-6
    )
    config.num_labels = 10
    assert_same_network(ours, ConvNextV2ForImageClassification(config), TRANSFORMERS_NAMES)


def test_all_published_sizes_are_there() -> None:
    v1 = [f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")]
    sizes = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
    assert sorted(list_models()) == sorted(v1 + [f"convnextv2_{size}" for size in sizes])


def test_v1_scales_its_layers_and_v2_normalises_responses() -> None:
    v1, v2 = create_model("convnext_tiny", **TINY), create_model("convnextv2_tiny", **TINY)
    names = {name.split(".", 3)[-1] for name in v1.state_dict() if name.startswith("stages.")}
    assert names ^ {name.split(".", 3)[-1] for name in v2.state_dict() if name.startswith("stages.")} == {
        "gamma",
        "grn.gamma",
        "grn.beta",
    }
    scale = block_of(v1, "stages.1.0").gamma
    assert scale is not None
    assert torch.equal(scale, torch.full((7,), 1e-6))
    assert grn_of(v2, "stages.1.0").gamma.shape == (1, 1, 1, 28)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = create_model("convnextv2_atto", head_init_scale=0.1)
    for name, module in network.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            scale = 0.1 if name == "head" else 1.0
            assert module.weight.std().item() == pytest.approx(0.02 * scale, rel=0.1), name
            assert module.weight.mean().abs().item() < 0.002 * scale, name
            assert module.bias is not None, name
            assert not module.bias.any(), name
    grn = grn_of(network, "stages.0.0")
    assert not grn.gamma.any()
    assert not grn.beta.any()


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("in_chans", [1, 3, 12])
def test_stage_maps_are_as_feature_info_says(stem_stride: int, in_chans: int) -> None:
    network = create_model(
        "convnextv2_atto", features_only=True, stem_stride=stem_stride, in_chans=in_chans, **TINY
    )
    height, width = 8 * stem_stride, 24 * stem_stride
    maps = network(torch.randn(2, in_chans, height, width))
    assert network.stride == 8 * stem_stride
    info = network.feature_info
    assert [m.shape for m in maps] == [
        (2, channels, height // reduction, width // reduction)
        for channels, reduction in zip(info.channels(), info.reduction(), strict=True)
    ]
    assert info.channels() == list(TINY["dims"])
    assert maps[-1].shape[2:] == (1, 3)


def test_the_classifier_can_be_reset_as_in_timm() -> None:
    network = create_model("convnextv2_atto", num_classes=4, **TINY).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    network.reset_classifier(7)
    assert network(images).shape == (2, 7)
    assert network.num_classes == 7
    network.reset_classifier(0)
    assert network(images).shape == (2, TINY["dims"][-1])
    with pytest.raises(ValueError, match="no classifier"):
        create_model("convnextv2_atto", features_only=True, **TINY).reset_classifier(7)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"depths": (1, 1, 1)}, r"depths \(1, 1, 1\)"), ({"dims": (0, 8, 8, 8)}, r"dims \(0, 8, 8, 8\)")],
)
def test_sizes_that_are_no_four_stages_are_refused(change: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("convnextv2_atto", **TINY | change)


def test_stage_maps_are_those_on_the_way_to_the_logits(randomize: Randomize) -> None:
    whole = randomize(create_model("convnextv2_atto", num_classes=4, **TINY))
    maps = create_model("convnextv2_atto", features_only=True, **TINY)
    missing, unexpected = maps.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    assert {name.split(".")[0] for name in unexpected} == {"norm", "head"}
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(maps(images)[-1], whole.forward_features(images))


def test_without_a_head_forward_gives_pooled_features(randomize: Randomize) -> None:
    network = randomize(create_model("convnextv2_atto", num_classes=0, **TINY))
    images = torch.randn(2, 3, 32, 64)
    features = network(images)
    assert features.shape == (2, network.num_features)
    expected = network.norm(network.forward_features(images).mean((2, 3)))
    assert torch.equal(features, expected)
    assert not any(name.startswith("head") for name in network.state_dict())


def test_drop_path_grows_with_depth_and_is_off_in_evaluation(randomize: Randomize) -> None:
    network = randomize(create_model("convnextv2_atto", drop_path_rate=0.4, num_classes=4, **TINY))
    rates = [block.drop_path for block in network.modules() if isinstance(block, Block)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    plain = randomize(create_model("convnextv2_atto", num_classes=4, **TINY))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), plain.eval()(images))


def test_drop_path_skips_whole_images_and_keeps_the_expectation(randomize: Randomize) -> None:
    """A block that drops half of the time gives an image either no residual or twice the residual."""
    block = randomize(Block(4, drop_path=0.5)).double()
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64).expand(4000, -1, -1, -1)
    residual = block.eval()(x, DenseLayout()) - x
    torch.manual_seed(0)
    dropped = block.train()(x, DenseLayout()) - x
    nothing = (dropped == 0).all(3).all(2).all(1)
    twice = torch.isclose(dropped, 2 * residual).all(3).all(2).all(1)
    assert (twice ^ nothing).all()
    assert twice.double().mean().item() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("name", "nearest"), [("convnextv2_ato", "convnextv2_atto"), ("convnext_bse", "convnext_base")]
)
def test_an_unknown_model_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*did you mean {nearest}"):
        create_model(name)


def test_errors_name_the_value_and_the_remedy() -> None:
    network = create_model("convnextv2_atto", **TINY)
    with pytest.raises(UserError, match=r"31 x 64 are smaller than the network's stride 32"):
        network(torch.zeros(1, 3, 31, 64))
    mask = Mask(torch.tensor([[0]]), (1, 2))
    with pytest.raises(UserError, match=r"1 images of 33 x 64 under a mask of 1 images of 32 x 64"):
        network.forward_features(torch.zeros(1, 3, 33, 64), create_layout("masked", mask))
    with pytest.raises(UserError, match=r"images are uint8: make them floats"):
        network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"images of 3 dimensions: give a batch"):
        network(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match=r"4 channels, the network takes 3"):
        network(torch.zeros(1, 4, 64, 64))
    with pytest.raises(ValueError, match=r"stem_stride 3: choose 4, 2 or 1"):
        create_model("convnextv2_atto", stem_stride=3)


def test_checkpointing_changes_no_gradient_and_keeps_less(randomize: Randomize) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    gradients, kept = [], []
    for checkpointing in (False, True):
        network = randomize(
            create_model("convnextv2_atto", **TINY, drop_path_rate=0.3, grad_checkpointing=checkpointing)
        )
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        torch.manual_seed(0)  # drop path draws the same in both
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            out = network(images)
        out.square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        kept.append(total)
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
    assert kept[1] < 0.5 * kept[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_compiles_to_one_graph(checkpointing: bool) -> None:
    network = create_model("convnextv2_atto", **TINY, drop_path_rate=0.1, grad_checkpointing=checkpointing)
    explained = torch._dynamo.explain(network)(torch.randn(2, 3, 32, 32))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


def test_statistics_are_float32_under_autocast(randomize: Randomize) -> None:
    """Squares of 300 overflow float16, and a mean of many bfloat16 numbers stands still."""
    grn = grn_of(randomize(create_model("convnextv2_atto", **TINY)), "stages.0.0")
    x = 300 * torch.rand(1, 16, 16, 20, generator=torch.Generator().manual_seed(0))
    expected = grn(x.double(), DenseLayout())
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype):
            out = grn(x.to(dtype), DenseLayout())
        assert out.dtype == dtype
        error = (out.double() - expected).abs().max() / expected.abs().max()
        assert error < 2 * torch.finfo(dtype).eps


def test_layer_norm_keeps_autocast_s_type_on_a_gpu() -> None:
    """Traced without one. In float32 it would move twice the bytes, and widen the residuals of stage 1."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)  # torch.autocast turns itself off where there is no GPU
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode():
            norm = LayerNorm(8, device="cuda")
            for given in (torch.bfloat16, torch.float32):
                assert norm(torch.empty(4, 8, device="cuda", dtype=given)).dtype == torch.bfloat16
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_layer_norm_under_autocast_is_off_by_roundings_alone() -> None:
    """Of 5000 positions about 30: neither the statistics nor the sums of the gradients are in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    norm, direction = LayerNorm(64, eps=1e-6).cuda(), torch.randn(5000, 64, generator=generator).cuda()
    x = (30 + torch.randn(5000, 64, generator=generator)).bfloat16().cuda()

    def results(x: Tensor, module: nn.Module) -> list[Tensor]:
        out = module(x.requires_grad_())
        return [out, *torch.autograd.grad(out, [x, *module.parameters()], direction.to(out.dtype))]

    with torch.autocast("cuda", torch.bfloat16):
        ours = results(x, norm)
    exact = results(x.detach().double(), copy.deepcopy(norm).double())
    for one, truth in zip(ours, exact, strict=True):
        assert (one - truth).norm() < torch.finfo(torch.bfloat16).eps * truth.norm()
