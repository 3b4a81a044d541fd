"""All layouts compute what the masked one does, and no layout sees a hidden pixel.

Shapes: B batch, C channels, H W pixels or positions, h w patches.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fcmae import ConvNeXt, Mask, create_layout, create_model
from fcmae.core.errors import UserError
from fcmae.models import layouts
from fcmae.models.block import Block
from fcmae.models.layouts import check_layout, register_layout
from fcmae.models.layouts.base import Layout
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.layouts.masked import MaskedLayout
from fcmae.models.layouts.minkowski import import_engine
from fcmae.pretraining.config import PretrainConfig
from fcmae.pretraining.model import FCMAE
from fcmae.pretraining.prepare import prepare
from tests.conftest import Randomize


@dataclass(frozen=True)
class Case:
    """A network, a batch and a mask."""

    grid: tuple[int, int] = (3, 3)
    visible: int = 4
    batch: int = 2
    stem_stride: int = 4
    model: str = "convnextv2_atto"
    grn_scope: str = "image"
    dims: tuple[int, int, int, int] = (5, 7, 11, 13)


CASES = {
    "usual": Case(),
    "one visible patch": Case(visible=1),
    "all visible": Case(visible=9),
    "non-square": Case(grid=(2, 5)),
    "one image": Case(batch=1),
    "stem stride 2": Case(stem_stride=2),
    "stem stride 1": Case(stem_stride=1, grid=(4, 3)),
    "equal widths": Case(dims=(8, 8, 8, 8)),
    "V1": Case(model="convnext_tiny"),
    "V1, one visible patch of one image": Case(model="convnext_tiny", visible=1, batch=1),
    "GRN over the batch": Case(grn_scope="batch", batch=3),
}


@pytest.fixture(params=["tiles", "minkowski"])
def fast(request: pytest.FixtureRequest) -> str:
    """A layout that leaves hidden patches out."""
    if request.param == "minkowski":
        try:
            import_engine()
        except ImportError:
            pytest.skip("MinkowskiEngine is not installed")
    layout: str = request.param
    return layout


def network_of(case: Case, randomize: Randomize) -> ConvNeXt:
    network = create_model(
        case.model,
        stem_stride=case.stem_stride,
        depths=(1, 1, 2, 1),
        dims=case.dims,
        grn_scope=case.grn_scope,
        features_only=True,
    )
    return randomize(network)


def batch_of(case: Case, seed: int = 3) -> tuple[Tensor, Mask]:
    """Images (B, 3, H, W) in float64, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    (rows, cols), patch = case.grid, 8 * case.stem_stride
    order = torch.rand(case.batch, rows * cols, generator=generator).argsort(1)
    mask = Mask(order[:, : case.visible].sort(1).values, case.grid)
    images = torch.randn(case.batch, 3, rows * patch, cols * patch, dtype=torch.float64, generator=generator)
    return images, mask


def hidden_in(mask: Mask, height: int) -> Tensor:
    """(B, H, W) bool, what is hidden of a map of that height."""
    side = height // mask.grid[0]
    return mask.hidden.view(-1, *mask.grid).repeat_interleave(side, 1).repeat_interleave(side, 2) != 0


def layout_of(name: str, mask: Mask) -> Layout:
    return DenseLayout() if name == "dense" else create_layout(name, mask)


def outcome(network: ConvNeXt, images: Tensor, layout: str, mask: Mask) -> dict[str, Tensor]:
    """The maps of the four stages, and the gradients of a weighted sum of them by every parameter."""
    network.zero_grad()
    maps = network.forward_stages(images, layout_of(layout, mask))
    generator = torch.Generator().manual_seed(4)
    weights = [torch.randn(each.shape, dtype=torch.float64, generator=generator) for each in maps]
    torch.stack([(each * weight).sum() for each, weight in zip(maps, weights, strict=True)]).sum().backward()
    results = {f"stage {i}": each.detach() for i, each in enumerate(maps)}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        results[name] = parameter.grad.clone()
    return results


def assert_error_budget(case: Case, fast: str, dtype: torch.dtype, randomize: Randomize) -> None:
    """No result of a fast layout is more than twice as far from float64 as the masked layout's in that type.

    Distances are root mean squares over a few batches, since a handful of numbers may be right by chance; for
    the same reason, some roundings of the result itself are allowed on top.
    """
    network, precise = network_of(case, randomize), network_of(case, randomize).double()
    squares: dict[str, Tensor] = {}
    for seed in range(4):
        images, mask = batch_of(case, seed)
        exact = outcome(precise, images, "masked", mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            plain, ours = (outcome(network, images.float(), layout, mask) for layout in ("masked", fast))
        for name, expected in exact.items():
            sizes = [ours[name] - expected, plain[name] - expected, expected]
            squares[name] = squares.get(name, 0) + torch.stack([each.square().mean() for each in sizes])
    for name, total in squares.items():
        error, budget, size = (total / 4).sqrt().tolist()
        assert error <= 2 * budget + 4 * torch.finfo(dtype).eps * size, name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_values_and_gradients_in_float64(case: Case, fast: str, randomize: Randomize) -> None:
    network = network_of(case, randomize).double()
    images, mask = batch_of(case)
    expected = outcome(network, images, "masked", mask)
    for name, result in outcome(network, images, fast, mask).items():
        scale = expected[name].abs().max().item()
        assert scale > 0, name
        assert (result - expected[name]).abs().max().item() <= 1e-11 * scale, name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_float32_keeps_the_error_budget(case: Case, fast: str, randomize: Randomize) -> None:
    assert_error_budget(case, fast, torch.float32, randomize)


def test_bf16_autocast_keeps_the_error_budget(randomize: Randomize) -> None:
    assert_error_budget(Case(), "tiles", torch.bfloat16, randomize)


def test_with_everything_visible_masked_is_dense(randomize: Randomize) -> None:
    case = Case(visible=9)
    network = network_of(case, randomize).double()
    images, mask = batch_of(case)
    masked, dense = (outcome(network, images, layout, mask) for layout in ("masked", "dense"))
    for name, expected in dense.items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(masked[name], expected, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("value", [1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("layout", ["masked", "tiles"])
def test_hidden_pixels_change_no_bit(layout: str, value: float, randomize: Randomize) -> None:
    network = network_of(Case(), randomize)
    images, mask = batch_of(Case())
    images = images.float()
    hidden = hidden_in(mask, images.shape[2])[:, None]
    before = outcome(network, images, layout, mask)
    after = outcome(network, torch.where(hidden, value, images), layout, mask)
    for name, result in before.items():
        assert torch.equal(result, after[name]), name


def test_what_is_hidden_has_neither_value_nor_gradient(fast: str, randomize: Randomize) -> None:
    network = network_of(Case(), randomize).double()
    images, mask = batch_of(Case())
    gradients = {}
    for layout in ("masked", fast):
        x = images.clone().requires_grad_()
        stages = network.forward_stages(x, create_layout(layout, mask))
        torch.stack([stage.square().sum() for stage in stages]).sum().backward()
        assert x.grad is not None
        gradients[layout] = x.grad
        for stage in stages:
            assert (stage.abs().sum(1) == 0).equal(hidden_in(mask, stage.shape[2]))
    assert (gradients[fast].abs().sum(1) == 0).equal(hidden_in(mask, images.shape[2]))
    torch.testing.assert_close(gradients[fast], gradients["masked"])


def test_a_black_visible_patch_is_visible(fast: str, randomize: Randomize) -> None:
    """The mask decides which positions exist, not their values."""
    network = network_of(Case(), randomize).double()
    images, mask = batch_of(Case())
    masked, ours = (outcome(network, torch.zeros_like(images), layout, mask) for layout in ("masked", fast))
    assert masked["stage 3"].any()
    torch.testing.assert_close(ours["stage 3"], masked["stage 3"])


def test_drop_path_skips_the_same_images_in_every_layout(fast: str, randomize: Randomize) -> None:
    case = Case(batch=8)
    network = network_of(case, randomize).double().train()
    for block in network.modules():
        if isinstance(block, Block):
            block.drop_path = 0.5
    images, mask = batch_of(case)
    results = {}
    for layout in ("masked", fast):
        torch.manual_seed(5)
        results[layout] = network.forward_features(images, create_layout(layout, mask))
    torch.testing.assert_close(results[fast], results["masked"])


@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("layout", ["dense", "masked", "tiles", "minkowski"])
def test_grn_is_the_formula_over_existing_positions(layout: str, over_batch: bool) -> None:
    """Against ConvNeXt V2, section 3.3, written out position by position."""
    if layout == "minkowski":
        try:
            import_engine()
        except ImportError:
            pytest.skip("MinkowskiEngine is not installed")
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 5, 16, 16, dtype=torch.float64, generator=generator)
    gamma, beta = torch.randn(2, 5, dtype=torch.float64, generator=generator)
    mask = Mask(torch.tensor([[2, 3], [1, 3]]), (2, 2))
    made = layout_of(layout, mask)
    result = made.to_map(made.grn(made.enter(x), gamma, beta, over_batch))

    hidden = hidden_in(mask, 16)
    exists = torch.ones_like(hidden) if layout == "dense" else ~hidden
    points = [x[b, :, exists[b]] for b in range(2)]  # (C, positions) of each image
    norms = [each.square().sum(1).sqrt() for each in points]
    if over_batch:
        norms = [(norms[0].square() + norms[1].square()).sqrt()] * 2
    for b, (point, norm) in enumerate(zip(points, norms, strict=True)):
        response = (norm / (norm.mean() + 1e-6))[:, None]
        expected = gamma[:, None] * point * response + beta[:, None] + point
        torch.testing.assert_close(result[b, :, exists[b]], expected)


@pytest.mark.parametrize("layout", ["masked", "tiles"])
def test_images_of_a_batch_do_not_see_each_other(layout: str, randomize: Randomize) -> None:
    network = network_of(Case(), randomize).double()
    images, mask = batch_of(Case())
    together = network.forward_features(images, create_layout(layout, mask))
    alone = [
        network.forward_features(image, create_layout(layout, Mask(visible, mask.grid)))
        for image, visible in zip(images.split(1), mask.visible.split(1), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_an_unknown_layout_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown layout 'tile': choose one of tiles, masked, minkowski"):
        create_layout("tile", batch_of(Case())[1])


def test_without_the_engine_minkowski_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    with pytest.raises(UserError, match=r"needs MinkowskiEngine 0\.5\.4: the README says how to build it"):
        create_layout("minkowski", batch_of(Case())[1])


def test_a_layout_from_elsewhere_is_asked_for_by_name(
    randomize: Randomize, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Turned(MaskedLayout):
        """Sees the masked layout's positions upside down in depthwise convolutions."""

        def depthwise(self, x: Tensor, conv: nn.Conv2d) -> Tensor:
            return super().depthwise(x, conv).flip(1)

    monkeypatch.setattr(layouts, "LAYOUTS", dict(layouts.LAYOUTS))
    register_layout("turned", Turned)
    check_layout("turned")
    network = network_of(Case(), randomize)
    images, mask = batch_of(Case())
    ours, masked = (outcome(network, images.float(), name, mask)["stage 0"] for name in ("turned", "masked"))
    assert not torch.equal(ours, masked)
    model = FCMAE("convnextv2_atto", 64, 0.5, layout="turned", depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    assert isinstance(model.layout(mask), Turned)
    settings = PretrainConfig(image_size=64, batch_size=8, layout="turned", out=str(tmp_path / "run"))
    prepare(settings, acquire=False)
    with pytest.raises(UserError, match="choose one of tiles, masked, minkowski, turned"):
        prepare(replace(settings, layout="turnd"), acquire=False)
