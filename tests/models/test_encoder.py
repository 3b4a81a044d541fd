"""A network of another family runs in the layouts: what it sees, what it learns, and what is refused.

Shapes: B batch, C channels, H W pixels or positions.
"""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fcmae import FCMAE, Mask, create_layout, create_model
from fcmae.core.errors import UserError
from fcmae.models.encoder import Encoder, check_encoder
from fcmae.models.kernels.calls import record_calls
from fcmae.models.layouts.base import Layout, is_depthwise, is_patchwise, visible_positions
from fcmae.models.layouts.dense import DenseLayout
from fcmae.pretraining.masking import random_mask
from tests.models.resnet import ResNet18

GRID = (2, 3)
MASK = Mask(torch.tensor([[0, 2, 4], [1, 2, 3]]), GRID)
ALL = Mask(torch.arange(6).expand(2, -1), GRID)
CONVOLUTIONS = {
    "7x7 of stride 2": nn.Conv2d(4, 6, 7, stride=2, padding=3),
    "3x3 in groups": nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
    "1x1 of stride 2": nn.Conv2d(4, 6, 1, stride=2),
    "dilated": nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "same": nn.Conv2d(4, 6, (3, 5), padding="same"),
    "even kernel": nn.Conv2d(4, 6, 4, stride=2, padding=1),
    "patchwise": nn.Conv2d(4, 6, 2, stride=2),
    "depthwise": nn.Conv2d(4, 4, 5, padding=2, groups=4),
}
POOLS: dict[str, nn.MaxPool2d | nn.AvgPool2d] = {
    "max 3x3": nn.MaxPool2d(3, stride=2, padding=1),
    "max 2x2": nn.MaxPool2d(2),
    "mean 3x3": nn.AvgPool2d(3, stride=2, padding=1),
    "mean 3x3 without padding": nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "mean 2x2": nn.AvgPool2d(2),
}


def images_of(channels: int = 3, side: int = 32, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, GRID[0] * side, GRID[1] * side, generator=generator)


def small() -> ResNet18:
    torch.manual_seed(0)
    return ResNet18(width=4)


def enter(x: Tensor, mask: Mask = MASK, name: str = "masked") -> tuple[Layout, Tensor]:
    layout = create_layout(name, mask)
    return layout, layout.enter(x)


def outcome(network: ResNet18, images: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The map, the gradients of all parameters, and the buffers after a step of a fresh copy."""
    network = copy.deepcopy(network)
    encoded = network.forward_features(images, layout)
    (encoded * torch.arange(encoded.numel()).view_as(encoded).sin()).sum().backward()
    results = {"map": encoded.detach()} | dict(network.named_buffers())
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        results[name] = parameter.grad
    return results


@pytest.mark.parametrize("training", [False, True])
def test_dense_it_is_torchvision_s_resnet(training: bool) -> None:
    theirs = torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    ours = ResNet18()
    generator = torch.Generator().manual_seed(2)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    ours.load_state_dict(theirs.state_dict())
    theirs.double().train(training)
    ours.double().train(training)
    images = torch.randn(2, 3, 70, 100, dtype=torch.float64)  # any size
    pooled = ours.forward_features(images, DenseLayout()).mean((2, 3))
    torch.testing.assert_close(pooled, theirs(images))
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


@pytest.mark.parametrize("training", [False, True])
def test_with_everything_visible_masked_is_dense(training: bool) -> None:
    network, images = small().double().train(training), images_of().double()
    masked = outcome(network, images, create_layout("masked", ALL))
    for name, expected in outcome(network, images, DenseLayout()).items():
        torch.testing.assert_close(masked[name], expected, msg=name)


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("training", [False, True])
def test_hidden_pixels_change_no_bit(training: bool, value: float) -> None:
    """Of the map, of any gradient, of any running statistic."""
    network, images = small().train(training), images_of()
    hidden = ~visible_positions(MASK, images.shape[2])[:, None]
    before = outcome(network, images, create_layout("masked", MASK))
    after = outcome(network, torch.where(hidden, value, images), create_layout("masked", MASK))
    for name, expected in before.items():
        assert expected.isfinite().all(), name
        assert torch.equal(after[name], expected), name
    assert torch.equal(before["map"].abs().sum(1).flatten(1) == 0, MASK.hidden != 0)


def test_hidden_pixels_have_no_gradient_and_visible_ones_have() -> None:
    images = images_of().requires_grad_()
    small().forward_features(images, create_layout("masked", MASK)).square().sum().backward()
    assert images.grad is not None
    seen = visible_positions(MASK, images.shape[2])
    assert images.grad.isfinite().all()
    assert not images.grad.abs().sum(1)[~seen].any()
    assert images.grad.abs().sum(1)[seen].all()


@pytest.mark.parametrize("conv", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_sees_zeros_where_patches_are_hidden(conv: nn.Conv2d) -> None:
    x = images_of(4, side=8)
    seen = visible_positions(MASK, 16)[:, None]
    layout, positions = enter(torch.where(seen, x, float("nan")))
    positions = torch.where(seen.permute(0, 2, 3, 1), positions, float("nan"))  # as left there by a layer
    found = layout.to_map(layout.convolve(positions, conv))
    expected = conv(torch.where(seen, x, 0.0))
    expected = torch.where(visible_positions(MASK, expected.shape[2])[:, None], expected, 0.0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_pooling_takes_visible_positions_only(pool: nn.MaxPool2d | nn.AvgPool2d) -> None:
    """Against a loop over windows."""
    x = images_of(4, side=8).double() - 5  # a zero would be the largest
    seen = visible_positions(MASK, 16)
    kernel, stride, padding = (int(each) for each in (pool.kernel_size, pool.stride, pool.padding))  # type: ignore[arg-type]
    layout, positions = enter(torch.where(seen[:, None], x, float("nan")))
    found = layout.to_map(layout.pool(positions, pool))
    coarse = visible_positions(MASK, found.shape[2])
    assert not found.abs().sum(1)[~coarse].any()
    counts_padding = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad
    for b, i, j in coarse.nonzero().tolist():
        window = [range(at * stride - padding, at * stride - padding + kernel) for at in (i, j)]
        inside = [(r, c) for r, c in itertools.product(*window) if 0 <= r < 16 and 0 <= c < 24]
        values = torch.stack([x[b, :, r, c] for r, c in inside if seen[b, r, c]])
        if isinstance(pool, nn.MaxPool2d):
            expected = values.amax(0)
        else:
            expected = values.mean(0) * (len(inside) / kernel**2 if counts_padding else 1)
        torch.testing.assert_close(found[b, :, i, j], expected)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_with_everything_visible_pooling_is_torch_s_bit_for_bit(pool: nn.MaxPool2d | nn.AvgPool2d) -> None:
    x = images_of(4, side=8)
    layout, positions = enter(x, ALL)
    found = layout.to_map(layout.pool(positions, pool))
    assert torch.equal(found, pool(x.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("layout", ["masked", "tiles"])
def test_batch_norm_s_statistics_are_of_visible_positions(layout: str, momentum: float | None) -> None:
    """Against torch's on the visible positions, gathered; in training, and then in evaluation."""
    x = images_of(4, side=8).double() * 3 + 7
    seen = visible_positions(MASK, 16)
    ours = nn.BatchNorm2d(4, momentum=momentum).double()
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = nn.BatchNorm1d(4, momentum=momentum).double()
    theirs.load_state_dict(ours.state_dict())
    made, positions = enter(torch.where(seen[:, None], x, float("nan")), name=layout)
    for training in (True, True, False):
        found = made.to_map(made.batch_norm(positions, ours.train(training))).permute(0, 2, 3, 1)
        gathered = x.permute(0, 2, 3, 1)[seen]
        torch.testing.assert_close(found[seen], theirs.train(training)(gathered))
        assert not found[~seen].any()
        for name, buffer in theirs.named_buffers():
            torch.testing.assert_close(ours.get_buffer(name), buffer)


def test_it_learns_and_its_stem_has_gradients() -> None:
    torch.manual_seed(0)
    model = FCMAE(ResNet18(width=8), image_size=64, mask_ratio=0.5, layout="masked", decoder_dim=32)
    assert (model.patch_size, model.in_chans, model.grid) == (32, 3, (2, 2))
    ramp = torch.linspace(-1, 1, 64)
    phases = torch.rand(8, 3, 1, 1) * 6
    images = (4 * ramp[:, None] + 3 * ramp + phases).sin()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(30):
        loss, _, _ = model(images, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert model.encoder.conv1.weight.grad.abs().sum() > 0
    batches = int(model.encoder.bn1.num_batches_tracked)
    assert batches == 30


def test_its_kernels_are_found_without_data_and_without_a_trace() -> None:
    """The self-test of the kernels runs a step on tensors without data; statistics stay as they were."""
    model = FCMAE(small(), image_size=64, mask_ratio=0.5, layout="masked", decoder_dim=8)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    calls = [call for module, args in model.examples() for call in record_calls(module, *args)]
    assert {call.operation for call in calls} == {"depthwise_map", "gelu_grn"}  # the decoder's
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_a_step_compiles_to_one_graph() -> None:
    model = FCMAE(small(), image_size=64, mask_ratio=0.5, layout="masked", decoder_dim=8)
    images, mask = images_of()[:, :, :64, :64], Mask(torch.tensor([[0, 3], [1, 2]]), (2, 2))
    explained = torch._dynamo.explain(copy.deepcopy(model))(images, mask)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


def test_compiled_it_takes_any_batch_and_draws_its_masks() -> None:
    model = FCMAE("convnextv2_atto", 64, 0.5, layout="masked", depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    compiled = torch.compile(model, backend="eager")
    for batch in (2, 3, 5):
        images = torch.randn(batch, 3, 64, 64)
        torch.manual_seed(batch)
        expected, _, hidden = model(images)
        torch.manual_seed(batch)
        loss, _, drawn = compiled(images)
        assert torch.equal(drawn, hidden)
        torch.testing.assert_close(loss, expected)


def test_without_images_the_loss_is_zero() -> None:
    for layout in ("tiles", "masked"):
        model = FCMAE("convnextv2_atto", 64, 0.5, layout=layout, depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
        for mask in (None, torch.zeros(0, 4), torch.zeros(0, 2, 2)):
            loss, prediction, hidden = model(torch.zeros(0, 3, 64, 64), mask)
            loss.backward()
            assert (loss.item(), len(prediction), hidden.shape) == (0.0, 0, (0, 4))
        assert all(each.grad is None or not each.grad.any() for each in model.parameters())


@pytest.mark.parametrize("layout", ["tiles", "masked"])
def test_convolve_is_what_a_convnext_asks_for(layout: str) -> None:
    """A convolution of either kind gives the same bits by its own name and by the general one."""
    x = images_of(4, side=8)
    made, positions = enter(x, name=layout)
    patchwise, depthwise = CONVOLUTIONS["patchwise"], CONVOLUTIONS["depthwise"]
    assert torch.equal(made.convolve(positions, patchwise), made.downsample(positions, patchwise))
    found = made.to_map(made.convolve(positions, depthwise))
    torch.testing.assert_close(found, made.to_map(made.depthwise(positions, depthwise)))


def test_kinds_of_convolutions() -> None:
    assert [name for name, conv in CONVOLUTIONS.items() if is_patchwise(conv)] == ["patchwise"]
    assert [name for name, conv in CONVOLUTIONS.items() if is_depthwise(conv)] == ["depthwise"]
    assert is_patchwise(nn.Conv2d(4, 6, 1))
    assert is_depthwise(nn.Conv2d(4, 4, 7, padding="same", groups=4))
    assert not is_depthwise(nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"))


@pytest.mark.parametrize(
    ("run", "layer"),
    [
        (
            lambda layout, x: layout.convolve(x, CONVOLUTIONS["7x7 of stride 2"]),
            r"Conv2d\(4, 6, kernel_size=\(7, 7\)",
        ),
        (lambda layout, x: layout.convolve(x, CONVOLUTIONS["3x3 in groups"]), r"Conv2d\(4, 6, .* groups=2"),
        (lambda layout, x: layout.pool(x, POOLS["max 3x3"]), r"MaxPool2d\(kernel_size=3"),
    ],
    ids=["stem", "groups", "pool"],
)
def test_what_tiles_cannot_run_is_refused_with_a_remedy(
    run: Callable[[Layout, Tensor], Tensor], layer: str
) -> None:
    with pytest.raises(UserError, match=f"layout 'tiles' cannot run {layer}.*use layout 'masked'"):
        run(*enter(images_of(4, side=8), name="tiles"))


def test_a_network_that_tiles_cannot_run_is_refused() -> None:
    model = FCMAE(small(), image_size=64, mask_ratio=0.5)
    with pytest.raises(UserError, match=r"layout 'tiles' cannot run Conv2d.*use layout 'masked'"):
        model(torch.zeros(2, 3, 64, 64))
    layout, x = enter(images_of(4, side=8), name="tiles")
    with pytest.raises(UserError, match="would cut patches of 8 x 8"):
        layout.convolve(x, nn.Conv2d(4, 4, 3, stride=3))


@pytest.mark.parametrize(
    ("layer", "made"),
    [
        (nn.Conv2d(4, 6, 3), "14 x 22"),
        (nn.Conv2d(4, 6, 7, stride=2, padding=2), "7 x 11"),
        (nn.Conv2d(4, 6, 16, stride=16), "1 x 1"),
        (nn.Conv2d(4, 6, 9, padding=1), "10 x 18"),  # of whole patches, but not of the same pixels
        (nn.MaxPool2d(3, stride=2), "7 x 11"),
        (nn.AvgPool2d(3, stride=1), "14 x 22"),
    ],
)
def test_a_map_that_cuts_patches_is_refused(layer: Any, made: str) -> None:
    layout, x = enter(images_of(4, side=8))
    operation = layout.convolve if isinstance(layer, nn.Conv2d) else layout.pool
    name = type(layer).__name__
    with pytest.raises(
        UserError, match=rf"{name}\(.*makes a map of {made} of one of 16 x 24, under a mask of 2 x 3"
    ):
        operation(x, layer)


def test_images_that_are_not_the_mask_s_are_refused_by_the_layout() -> None:
    for shape in ((2, 3, 65, 96), (2, 3, 64, 64), (3, 3, 64, 96), (2, 3, 1, 1)):
        with pytest.raises(
            UserError, match=f"{shape[0]} images of {shape[2]} x {shape[3]} under a mask of 2 images"
        ):
            create_layout("masked", MASK).enter(torch.zeros(shape))


@pytest.mark.parametrize("compiled", [False, True])
def test_bad_batches_are_refused_with_value_and_remedy(compiled: bool) -> None:
    model = FCMAE(small(), image_size=64, mask_ratio=0.5, layout="masked", decoder_dim=8)
    if compiled:
        model.compile(backend="eager")
    good = torch.zeros(2, 3, 64, 64)
    bad: list[tuple[Tensor, Any, str]] = [
        (good[:, :1], None, "1 channels, the network takes 3"),
        (good.byte(), None, "images are uint8: make them floats"),
        (good[0], None, "images of 3 dimensions"),
        (good[..., :32], None, r"images of \(64, 32\), not of image_size \(64, 64\)"),
        (good, torch.ones(2, 5), r"a mask of \(2, 5\) is not one of 2 x 2"),
        (good, torch.zeros(2, 4), "hides nothing"),
        (good, torch.ones(2, 4), "hides every patch"),
        (good, Mask(torch.arange(4).expand(2, -1), (2, 2)), "4 of 4 patches visible"),
        (good, Mask(torch.zeros(2, 0, dtype=torch.int64), (2, 2)), "0 of 4 patches visible"),
        (good, MASK, "a mask of 2 images of 2 x 3 patches, not of 2 of 2 x 2"),
    ]
    for images, mask, message in bad:
        with pytest.raises(UserError, match=message):
            model(images, mask)
    assert model(good)[0].isfinite()


def test_a_mask_of_wrong_numbers_is_refused() -> None:
    for visible in (
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(1, 5, dtype=torch.int64),
        torch.zeros(1, 2),
    ):
        with pytest.raises(
            UserError, match=r"a mask of 2 x 2 patches has int64 numbers \(B, V\) of at most 4"
        ):
            Mask(visible, (2, 2))
    for count in (0, 4, 5):
        with pytest.raises(UserError, match=f"num_visible {count} of 2 x 2 patches: choose 1 to 3"):
            random_mask(1, (2, 2), count)


class Incomplete(nn.Module):
    """A network that says nothing of itself, but for what it is given."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


def features(images: Tensor, layout: Layout) -> Tensor:
    return F.avg_pool2d(images, 8)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Incomplete(), r"lacks in_chans, stride, num_features, forward_features\(images, layout\)"),
        (Incomplete(in_chans=3, num_features=3, forward_features=features), "lacks stride"),
        (
            Incomplete(in_chans=3, stride=(8, 8), num_features=3, forward_features=features),
            r"Incomplete.stride is \(8, 8\): an encoder has a number",
        ),
        (
            Incomplete(in_chans=3, stride=0, num_features=3, forward_features=features),
            "Incomplete.stride is 0: an encoder has a number of at least 1",
        ),
        (
            Incomplete(in_chans=3, stride=8, num_features=3, forward_features=lambda images: images),
            "forward_features does not take images and a layout",
        ),
        (ResNet18, "is a type: give a name, or a network"),
        (None, "encoder None is a NoneType"),
    ],
)
def test_what_is_no_encoder_is_refused_when_the_model_is_made(encoder: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FCMAE(encoder, 64)


def test_errors_name_what_an_encoder_could_do_about_them() -> None:
    with pytest.raises(
        UserError, match=r"in_chans, depths: an encoder that is made already takes no options"
    ):
        FCMAE(small(), 64, in_chans=3, depths=(1, 1, 1, 1))
    with pytest.raises(UserError, match="not a multiple of the network's stride 32") as caught:
        FCMAE(small(), 80)
    assert "stem_stride" not in str(caught.value)
    wrong = Incomplete(in_chans=3, stride=16, num_features=3, forward_features=features)
    model = FCMAE(wrong, 64, layout="masked")
    with pytest.raises(UserError, match=r"gives a map \(1, 3, 8, 8\), and announces \(1, 3, 4, 4\)"):
        model(torch.zeros(1, 3, 64, 64))


def test_ours_are_encoders() -> None:
    networks: list[Encoder] = [create_model("convnextv2_atto", stem_stride=2), small()]
    for network in networks:
        check_encoder(network)
    assert [each.stride for each in networks] == [16, 32]
