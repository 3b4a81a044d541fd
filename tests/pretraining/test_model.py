"""The masked autoencoder: shapes, its loss against numpy, and what it may and may not see.

Shapes: B batch, C channels, H W pixels, P patch side, L = h * w patches.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fcmae.models.kernels.calls import Call, record_calls
from fcmae.models.layouts.minkowski import import_engine
from fcmae.models.layouts.tiles import TilesLayout
from fcmae.models.mask import Mask
from fcmae.pretraining.masking import patchify, random_mask
from fcmae.pretraining.model import FCMAE

Randomize = Callable[[FCMAE], FCMAE]
SMALL: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (5, 7, 11, 13), "decoder_dim": 17, "stem_stride": 1}


def small(image_size: int | tuple[int, int] = 32, **options: Any) -> FCMAE:
    return FCMAE("convnextv2_atto", image_size=image_size, **SMALL, **options)


def images_of(model: FCMAE, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, model.in_chans, *model.image_size, generator=generator)


def mask_of(model: FCMAE, batch: int = 2) -> Mask:
    generator = torch.Generator().manual_seed(2)
    return random_mask(batch, model.grid, model.num_visible, generator)


def test_pico_has_the_published_shapes_and_parameters() -> None:
    """Of the authors' public code: pico at 224, decoder of one block of width 512."""
    model = FCMAE("convnextv2_pico", image_size=224, mask_ratio=0.6, decoder_depth=1, decoder_dim=512)
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_521_792
    loss, prediction, mask = model(torch.randn(1, 3, 224, 224))
    assert loss.shape == ()
    assert prediction.shape == (1, 3072, 7, 7)
    assert mask.shape == (1, 49)
    assert (mask == 0).sum() == 19


def test_the_starting_loss_is_close_to_one() -> None:
    """Normalised patches have variance 1, and an untrained network predicts close to 0."""
    torch.manual_seed(0)
    model = FCMAE("convnextv2_atto", image_size=64, decoder_dim=512)
    loss, prediction, _ = model(torch.rand(4, 3, 64, 64))
    assert loss.item() == pytest.approx(1.0, abs=0.05)
    assert 0 < prediction.std().item() < 0.3


@pytest.mark.parametrize("in_chans", [1, 3, 12])
@pytest.mark.parametrize("image_size", [32, (16, 40)])
def test_any_channels_and_any_grid(in_chans: int, image_size: int | tuple[int, int]) -> None:
    model = small(image_size, in_chans=in_chans)
    rows, cols = (4, 4) if image_size == 32 else (2, 5)
    loss, prediction, mask = model(images_of(model))
    assert loss.isfinite()
    assert prediction.shape == (2, 8 * 8 * in_chans, rows, cols)
    assert mask.shape == (2, rows * cols)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_the_loss_is_the_mean_squared_error_on_hidden_patches(norm_pix_loss: bool) -> None:
    """Against numpy, patch by patch: channels last in a patch, the unbiased variance plus 1e-6."""
    model = small((16, 24), norm_pix_loss=norm_pix_loss)
    images, hidden = images_of(model), mask_of(model).hidden
    prediction = torch.randn(2, 8 * 8 * 3, 2, 3)
    errors = []
    for b in range(2):
        for n in np.flatnonzero(hidden[b].numpy()):
            y, x = divmod(n, 3)
            patch = images[b, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].numpy().astype(np.float64)
            if norm_pix_loss:
                patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            predicted = prediction[b, :, y, x].numpy().reshape(8, 8, 3).transpose(2, 0, 1)
            errors.append(((predicted - patch) ** 2).mean())
    assert model.loss(images, prediction, hidden).item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_visible_patches_carry_no_loss() -> None:
    model = small()
    images, hidden = images_of(model), mask_of(model).hidden
    prediction = torch.randn(2, 8 * 8 * 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.loss(images, prediction, hidden), prediction)
    assert torch.equal(gradient.abs().sum(1).flatten(1) > 0, hidden != 0)


def gaps_of(model: FCMAE, batch: int = 2) -> Tensor:
    """Values here and there, and the upper half of each image."""
    gaps = torch.rand(batch, 3, *model.image_size, generator=torch.Generator().manual_seed(3)) < 0.2
    gaps[:, :, : model.image_size[0] // 2] = True
    return gaps


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_what_lies_where_no_data_is_changes_no_bit(norm_pix_loss: bool, randomize: Randomize) -> None:
    model = randomize(small(norm_pix_loss=norm_pix_loss))
    gaps, images = gaps_of(model), images_of(model)
    outcomes = []
    for garbage in (0.0, -9999.0, float("nan"), float("inf")):
        model.zero_grad()
        loss, prediction, _ = model(images.masked_fill(gaps, garbage), mask_of(model), there=~gaps)
        loss.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        outcomes.append([loss.detach(), prediction.detach(), *(gradient.clone() for gradient in gradients)])
    assert torch.isfinite(outcomes[0][0])
    for other in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], other, strict=True))


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_the_loss_is_that_of_the_values_that_are_there(norm_pix_loss: bool) -> None:
    """Against numpy, one patch after another."""
    model = small(norm_pix_loss=norm_pix_loss)
    there, images, hidden = ~gaps_of(model), images_of(model), mask_of(model).hidden
    prediction = torch.randn(2, 192, 4, 4, generator=torch.Generator().manual_seed(4))
    found = model.loss(images.masked_fill(~there, 0.0), prediction, hidden, there)
    errors: list[list[float]] = [[], []]
    for image, patch in hidden.nonzero().tolist():
        known = patchify(there, 8)[image, patch].numpy()
        if not known.any():
            continue
        target = patchify(images, 8)[image, patch].numpy().astype(np.float64)[known]
        if norm_pix_loss:
            target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        given = prediction.flatten(2)[image, :, patch].numpy()[known]
        errors[image].append(float(np.square(given - target).mean()))
    assert 0 < len(errors[0]) < int(hidden[0].sum())
    assert found.item() == pytest.approx(np.mean([np.mean(each) for each in errors]), rel=1e-5)
    parts = [
        model.loss(images[i : i + 1].masked_fill(~there[i : i + 1], 0.0), *rest)
        for i, rest in enumerate(zip(prediction.split(1), hidden.split(1), there.split(1), strict=True))
    ]
    torch.testing.assert_close(found, torch.stack(parts).mean())


def test_nothing_is_asked_where_no_data_is() -> None:
    model = small()
    there, images, hidden = ~gaps_of(model), images_of(model), mask_of(model).hidden
    prediction = torch.randn(2, 192, 4, 4, requires_grad=True)
    model.loss(images.masked_fill(~there, 0.0), prediction, hidden, there).backward()
    assert prediction.grad is not None
    asked = patchify(there, 8) & (hidden[..., None] != 0)
    assert torch.equal(prediction.grad.flatten(2).transpose(1, 2) != 0, asked)


def test_with_all_data_there_the_loss_is_the_usual_one(randomize: Randomize) -> None:
    model = randomize(small())
    images, mask = images_of(model), mask_of(model)
    usual, _, _ = model(images, mask)
    loss, _, _ = model(images, mask, there=torch.ones_like(images, dtype=torch.bool))
    torch.testing.assert_close(loss, usual)


@pytest.mark.parametrize("known", [0, 1, 2])
def test_patches_of_few_values_have_finite_gradients(known: int) -> None:
    model = small()
    there = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    there[..., :1, :known] = True
    loss, _, _ = model(images_of(model), mask_of(model), there=there)
    loss.backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None
    )


def test_the_loss_is_taken_in_float32_under_autocast() -> None:
    model = small()
    with torch.autocast("cpu", torch.bfloat16):
        loss, prediction, _ = model(images_of(model))
    assert prediction.dtype == torch.bfloat16
    assert loss.dtype == torch.float32


def test_the_mask_comes_from_the_generator() -> None:
    model = small()
    images = images_of(model)
    first, again, other = (model(images, generator=torch.Generator().manual_seed(s))[2] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert ((first == 0).sum(1) == model.num_visible).all()


def test_a_mask_that_is_given_is_used(randomize: Randomize) -> None:
    model = randomize(small())
    images, mask = images_of(model), mask_of(model)
    loss, prediction, used = model(images, mask)
    assert torch.equal(used, mask.hidden)
    assert torch.equal(loss, model.loss(images, prediction, mask.hidden))


def test_encode_gives_zero_at_hidden_patches_and_sees_only_visible_ones(randomize: Randomize) -> None:
    model = randomize(small())
    images, mask = images_of(model), mask_of(model)
    encoded = model.encode(images, mask)
    assert encoded.shape == (2, 13, 4, 4)
    assert torch.equal(encoded.abs().sum(1).flatten(1) == 0, mask.hidden != 0)
    hidden = mask.hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3) != 0
    changed = torch.where(hidden, float("nan"), images)
    assert torch.equal(model.encode(changed, mask), encoded)


def test_hidden_patches_enter_the_decoder_as_the_mask_token(randomize: Randomize) -> None:
    """With no decoder block, a hidden patch's prediction is that of the token, and a visible one's is not."""
    model = randomize(small(decoder_depth=0))
    images, mask = images_of(model), mask_of(model)
    _, prediction, _ = model(images, mask)
    token = model.pred(model.mask_token).flatten()
    same = torch.isclose(prediction, token[:, None, None], atol=1e-5).all(1).flatten(1)
    assert torch.equal(same, mask.hidden != 0)


@pytest.mark.parametrize("layout", ["tiles", "minkowski"])
def test_layouts_agree_in_loss_and_gradients(layout: str, randomize: Randomize) -> None:
    if layout == "minkowski":
        try:
            import_engine()
        except ImportError:
            pytest.skip("MinkowskiEngine is not installed")
    gradients = []
    for each in ("masked", layout):
        model = randomize(small(layout=each)).double()
        loss, _, _ = model(images_of(model).double(), mask_of(model))
        loss.backward()
        gradients.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_perfect_prediction_reconstructs_the_image(norm_pix_loss: bool) -> None:
    model = small((16, 24), norm_pix_loss=norm_pix_loss)
    images, hidden = images_of(model) * 3 + 1, mask_of(model).hidden
    target = patchify(images, 8)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    perfect = target.transpose(1, 2).unflatten(2, (2, 3))
    torch.testing.assert_close(model.reconstruct(images, perfect, hidden), images)
    assert model.loss(images, perfect, hidden) < 1e-10


def test_a_reconstruction_keeps_visible_pixels_bit_for_bit() -> None:
    model = small()
    images, hidden = images_of(model), mask_of(model).hidden
    picture = model.reconstruct(images, torch.randn(2, 8 * 8 * 3, 4, 4), hidden)
    changed = (patchify(picture, 8) != patchify(images, 8)).any(-1)
    assert torch.equal(changed, hidden != 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "convnextv2_ato"}, "did you mean convnextv2_atto"),
        (
            {"image_size": 225},
            "not a multiple of the network's stride 32: the nearest is 224 x 224",
        ),
        ({"mask_ratio": 1.0}, "mask_ratio 1.0 is outside"),
        ({"image_size": 32}, "hides all 1 patches"),
        ({"layout": "tile"}, "unknown layout 'tile': choose one of tiles, masked, minkowski"),
        ({"stem_stride": 3}, "stem_stride 3: choose 4, 2 or 1"),
    ],
)
def test_errors_come_when_the_model_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCMAE(**{"encoder": "convnextv2_atto", **options})


def test_images_and_masks_of_another_size_are_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match=r"images of \(32, 40\), not of image_size \(32, 32\)"):
        model(torch.zeros(2, 3, 32, 40))
    with pytest.raises(ValueError, match="mask of 2 images of 2 x 8 patches, not of 2 of 4 x 4"):
        model(torch.zeros(2, 3, 32, 32), random_mask(2, (2, 8), 6))
    with pytest.raises(ValueError, match="mask of 3 images of 4 x 4 patches, not of 2 of 4 x 4"):
        model(torch.zeros(2, 3, 32, 32), random_mask(3, (4, 4), 6))
    with pytest.raises(ValueError, match="4 channels, the network takes 3"):
        model(torch.zeros(2, 4, 32, 32))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_compiles_to_one_graph(checkpointing: bool) -> None:
    sizes: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (4, 6, 8, 10), "decoder_dim": 8}
    model = FCMAE("convnextv2_atto", 64, 0.5, **sizes, grad_checkpointing=checkpointing)
    mask = Mask(torch.tensor([[0, 3]] * 2), (2, 2))
    explained = torch._dynamo.explain(model)(torch.randn(2, 3, 64, 64), mask)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_for_this_machine_a_step_is_the_eager_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, randomize: Randomize
) -> None:
    """C++ is written, compiled and run, as `--loop.compile true` has it on a CPU."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing is found that was compiled before
    eager = FCMAE("convnextv2_atto", 64, 0.5, depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), decoder_dim=8)
    randomize(eager)
    compiled = copy.deepcopy(eager)
    compiled.compile(dynamic=False)
    images, mask = torch.rand(3, 3, 64, 64), Mask(torch.tensor([[0, 2], [1, 3], [0, 3]]), (2, 2))
    losses, gradients = [], []
    for model in (eager, compiled):
        loss, *_ = model(images, mask)
        losses.append(loss)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(losses[1], losses[0])
    for (name, _), expected, found in zip(eager.named_parameters(), *gradients, strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm(), name
    assert list(tmp_path.glob("**/*.so"))


def calls_of(model: FCMAE) -> list[Call]:
    return [call for module, args in model.examples() for call in record_calls(module, *args)]


# At 64 pixels and a stem of 2 pixels: a grid of 4 x 4 patches of 16 pixels, and maps of 32, 16, 8 and 4.
DECODER = {Call("depthwise_map", 4, 4, 512), Call("gelu_grn", 1, 1, 2048)}
DIMS = (40, 80, 160, 320)  # of atto
TILES = {Call("depthwise_tiles", 8 >> i, 8 >> i, dim) for i, dim in enumerate(DIMS)}
MAPS = {Call("depthwise_map", 32 >> i, 32 >> i, dim) for i, dim in enumerate(DIMS)}
GRNS = {Call("gelu_grn", 1, 1, 4 * dim) for dim in DIMS}


@pytest.mark.parametrize(
    ("layout", "encoder"), [("tiles", TILES | GRNS), ("masked", MAPS)], ids=["tiles", "masked"]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_examples_call_the_kernels_of_a_step(layout: str, encoder: set[Call], checkpointing: bool) -> None:
    model = FCMAE("convnextv2_atto", 64, 0.5, layout=layout, stem_stride=2, grad_checkpointing=checkpointing)
    before = torch.random.get_rng_state()
    calls = calls_of(model)
    assert len(calls) == len(set(calls))
    assert set(calls) == encoder | DECODER
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(each.is_meta for each in model.parameters())


def test_examples_of_a_layout_that_needs_data_are_the_decoder_s_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TilesLayout, "needs_data", True)
    model = FCMAE("convnextv2_atto", 64, 0.5, stem_stride=2, decoder_depth=2)
    assert set(calls_of(model)) == DECODER
    assert calls_of(FCMAE("convnextv2_atto", 64, 0.5, decoder_depth=0)) == []
