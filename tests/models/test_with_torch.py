"""What PyTorch does to any network, it does to ours: types, memory, averages, changed modules, decoders.

Gradients are in `test_gradients.py`, graphs and compilers in `test_graphs.py`, several processes in
`test_with_processes.py`. Shapes: B batch, C channels, H W pixels.
"""

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from fcmae import ConvNeXt, create_model
from fcmae.models.block import Block
from tests.models.against_timm import SMALL, assert_same, backward, draw, gradients


def blocks_of(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(ours: ConvNeXt, images: Tensor, dtype: torch.dtype) -> None:
    """Weights, activations and gradients are of the type, and near those of float64."""
    exact, expected = ours(images), backward(ours, images)
    narrow = copy.deepcopy(ours).to(dtype)
    logits, found = narrow(images.to(dtype)), backward(narrow, images.to(dtype))
    assert logits.dtype == dtype
    assert {each.dtype for each in found} == {dtype}
    assert (logits - exact).norm() < 8 * torch.finfo(dtype).eps * exact.norm()
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.2 * other.norm()


@pytest.mark.parametrize("training", [False, True])
def test_autocast(ours: ConvNeXt, images: Tensor, training: bool) -> None:
    single = ours.float().train(training)
    exact = single(images.float())
    with torch.autocast("cpu", torch.bfloat16):
        logits = single(images.float())
    assert logits.dtype == torch.bfloat16
    assert (logits - exact).norm() < 8 * torch.finfo(torch.bfloat16).eps * exact.norm()
    if training:
        logits.float().square().mean().backward()
        assert {each.dtype for each in gradients(single)} == {torch.float32}


def test_channels_last(ours: ConvNeXt, images: Tensor) -> None:
    expected = ours(images), backward(ours, images)
    other = copy.deepcopy(ours).to(memory_format=torch.channels_last)
    pictures = images.contiguous(memory_format=torch.channels_last)
    assert_same((other(pictures), backward(other, pictures)), expected)


def views(images: Tensor) -> Iterator[Tensor]:
    """The same pixels in memory of other strides."""
    wide = torch.zeros(3, 3, 60, 60, dtype=images.dtype)
    wide[:, :, 9:42, 5:52] = images
    yield wide[:, :, 9:42, 5:52]
    yield images.flip(3).contiguous().flip(3)
    yield images.transpose(2, 3).contiguous().transpose(2, 3)
    yield images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def test_images_that_are_not_contiguous(ours: ConvNeXt, images: Tensor) -> None:
    for view in views(images):
        assert_same(ours(view), ours(images))
    grey = draw(2, 1, 33, 47).expand(-1, 3, -1, -1)
    assert_same(ours(grey), ours(grey.contiguous()))


def test_float64_by_default(images: Tensor) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        network = create_model("convnextv2_atto", num_classes=3, **SMALL)
        assert network(images).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_without_memory(ours: ConvNeXt, images: Tensor) -> None:
    """On the meta device, and then with memory and weights."""
    with torch.device("meta"):
        empty = create_model("convnextv2_atto", num_classes=3, **SMALL)
        assert empty(torch.empty(2, 3, 40, 50)).shape == (2, 3)
    filled = empty.to_empty(device="cpu")
    own = create_model("convnextv2_atto", num_classes=3, **SMALL)
    filled.load_state_dict(own.state_dict())
    assert torch.equal(filled(images.float()), own(images.float()))


def test_deterministic_algorithms_and_anomaly_detection(ours: ConvNeXt, images: Tensor) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Anomaly Detection has been enabled")
            with torch.autograd.detect_anomaly():
                first = backward(ours, images)
        assert all(torch.equal(*pair) for pair in zip(first, backward(ours, images), strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_inference_mode(ours: ConvNeXt, images: Tensor) -> None:
    with torch.inference_mode():
        inferred = ours(images)
    assert torch.equal(inferred, ours(images))
    backward(ours, images)


def test_copies(ours: ConvNeXt, images: Tensor) -> None:
    """Deep copies, also after a step, and pickles of the whole module."""
    expected = backward(ours, images)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for other in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert torch.equal(other(images), ours(images))
        assert_same(backward(other, images), expected)
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert not torch.equal(other(images), ours(images))


def test_averages_of_weights(ours: ConvNeXt, images: Tensor) -> None:
    """timm's moving average, and PyTorch's stochastic weight averaging."""
    moving, average = ModelEmaV3(ours, decay=0.5), AveragedModel(ours)
    average.update_parameters(ours)
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(3)
    moving.update(ours)
    average.update_parameters(ours)
    for averaged in (moving.module, average.module):
        assert_same(list(averaged.parameters()), [2 * each for each in before])
    assert_same(moving(images), average(images))


def test_hooks(ours: ConvNeXt, images: Tensor) -> None:
    """Every module that holds weights is called, so that hooks of each see what goes through it."""
    seen = set()

    def see(name: str) -> Callable[..., None]:
        return lambda module, inputs, out: seen.add(name)

    leaves = {name: each for name, each in ours.named_modules() if dict(each.named_parameters(recurse=False))}
    for name, module in leaves.items():
        if not isinstance(module, Block):  # which holds V1's scale
            module.register_forward_hook(see(name))
    for module in leaves.values():
        module.register_full_backward_hook(lambda module, inputs, outputs: None)
    backward(ours, images.requires_grad_())
    assert seen == {name for name, module in leaves.items() if not isinstance(module, Block)}


def test_pruned_weights(ours: ConvNeXt, theirs: TimmConvNeXt, images: Tensor) -> None:
    """A hook makes them before each forward pass: a stale weight shows in the second step."""
    for network in (ours, theirs):
        for module in list(network.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                prune.l1_unstructured(module, "weight", 0.3)
    optimizer = torch.optim.SGD([*ours.parameters(), *theirs.parameters()], lr=1e-3)
    for _ in range(2):
        assert_same(ours(images), theirs(images))
        backward(ours, images)
        backward(theirs, images)
        optimizer.step()


def test_weight_norm(ours: ConvNeXt, images: Tensor) -> None:
    expected = ours(images)
    for module in list(ours.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            parametrizations.weight_norm(module)
    assert_same(ours(images), expected)
    backward(ours, images)


class LowRank(nn.Module):
    """A layer that stays as it is, and a narrow detour beside it that is trained (LoRA, arXiv 2106.09685)."""

    def __init__(self, layer: nn.Module, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        out: Tensor = self.layer(x, *others) + self.up(self.down(x))
        return out


def test_low_rank_adaptation(ours: ConvNeXt, images: Tensor) -> None:
    """Of linear layers, and of the depthwise convolution, which is called with positions and their layout."""
    expected = ours(images)
    for block in blocks_of(ours):
        dim = block.pwconv2.out_features
        block.pwconv1 = LowRank(block.pwconv1, dim, 4 * dim)  # type: ignore[assignment]
        block.pwconv2 = LowRank(block.pwconv2, 4 * dim, dim)  # type: ignore[assignment]
        block.dwconv = LowRank(block.dwconv, dim, dim)  # type: ignore[assignment]
    ours.double()
    assert_same(ours(images), expected)
    ours(images).square().mean().backward()
    for name, parameter in ours.named_parameters():
        if name.endswith("up.weight"):
            assert parameter.grad is not None
            assert parameter.grad.any(), name


class Decoder(nn.Module):
    """A U-Net's: each map is enlarged to the size of the one before it, and joined to it."""

    def __init__(self, channels: list[int], classes: int) -> None:
        super().__init__()
        deep = reversed(channels[1:])
        self.steps = nn.ModuleList(
            nn.Conv2d(wide + narrow, narrow, 3, padding=1)
            for wide, narrow in zip(deep, reversed(channels[:-1]), strict=True)
        )
        self.last = nn.Conv2d(channels[0], classes, 1)

    def forward(self, maps: list[Tensor], size: torch.Size) -> Tensor:
        *skips, x = maps
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            x = F.relu(step(torch.cat([F.interpolate(x, skip.shape[2:]), skip], dim=1)))
        out: Tensor = F.interpolate(self.last(x), size)
        return out


def test_a_decoder_for_segmentation_learns_on_odd_sizes() -> None:
    torch.manual_seed(0)
    encoder = create_model("convnextv2_atto", features_only=True, **SMALL)
    decoder = Decoder(encoder.feature_info.channels(), 2)
    images = torch.randn(2, 3, 100, 130)
    labels = torch.zeros(2, 100, 130, dtype=torch.long)
    labels[:, 20:60, 40:90] = 1
    images += 2 * labels[:, None]
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=5e-3)
    losses = []
    for _ in range(12):
        logits = decoder(encoder(images), images.shape[2:])
        assert logits.shape == (2, 2, 100, 130)
        losses.append(F.cross_entropy(logits, labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("activations", [False, True])
def test_eight_bits(ours: ConvNeXt, activations: bool) -> None:
    """By torchao, where PyTorch has moved quantisation: of weights, and of activations as well."""
    quantization = pytest.importorskip("torchao.quantization")
    config = "Int8DynamicActivationInt8WeightConfig" if activations else "Int8WeightOnlyConfig"
    images, network = draw(8, 3, 224, 224).float(), ours.float().eval()
    narrow = copy.deepcopy(network)
    quantization.quantize_(narrow, getattr(quantization, config)())
    assert type(blocks_of(narrow)[0].pwconv1.weight) is not nn.Parameter
    with torch.no_grad():
        expected = network(images)
        assert 0 < (narrow(images) - expected).norm() < 0.05 * expected.norm()
