"""Pictures of reconstructions show the pixels they say they show.

Shapes: N images, C channels, H W pixels, L patches.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.io import decode_image

from fcmae.data.dataset import ImageDataset
from fcmae.data.images import ArraySource
from fcmae.pretraining import reconstruct
from fcmae.pretraining.masking import random_mask
from fcmae.pretraining.model import FCMAE
from fcmae.pretraining.reconstruct import HIDDEN_GREY, draw_grid, draw_reconstructions, few_images

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What is drawn, filled when a picture is drawn."""
    drawn: dict[str, Tensor] = {}
    monkeypatch.setattr(reconstruct, "draw_grid", lambda columns, path, across: drawn.update(columns))
    return drawn


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_visible_pixels_are_the_original_s_and_hidden_ones_grey_or_predicted(
    columns: dict[str, Tensor], norm_pix_loss: bool
) -> None:
    options: dict[str, Any] = {
        "depths": (1, 1, 1, 1),
        "dims": (4, 4, 4, 4),
        "stem_stride": 1,
        "decoder_dim": 8,
    }
    model = FCMAE("convnextv2_atto", image_size=(16, 24), norm_pix_loss=norm_pix_loss, **options)
    torch.nn.init.zeros_(model.pred.weight)  # predicts the same everywhere: 0, the mean of what is normalised
    images = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)
    draw_reconstructions(model, images, MEAN, STD, Path("unused.png"), torch.Generator().manual_seed(5))

    original = images / 255
    mask = random_mask(3, model.grid, model.num_visible, torch.Generator().manual_seed(5))
    hidden = (
        mask.hidden.view(3, 1, 2, 3).repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 3, -1, -1)
        != 0
    )
    assert torch.equal(columns["original"], original)
    assert torch.equal(columns["masked"], torch.where(hidden, HIDDEN_GREY, original))
    restored = columns["reconstruction"]
    torch.testing.assert_close(restored[~hidden], original[~hidden])
    if norm_pix_loss:  # a patch's own mean, over all its normalised channels
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        patches = ((original - mean) / std).unflatten(3, (3, 8)).unflatten(2, (2, 8))
        level = patches.mean((1, 3, 5), keepdim=True).expand_as(patches).flatten(4, 5).flatten(2, 3)
        expected = level * std + mean
    else:
        expected = torch.tensor(MEAN).view(3, 1, 1).expand_as(original)
    torch.testing.assert_close(restored[hidden], expected[hidden])


@pytest.mark.parametrize(("count", "numbers"), [(3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10)))])
def test_few_images_are_spread_over_the_data(count: int, numbers: list[int]) -> None:
    source = ArraySource(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1))
    few = few_images(ImageDataset(source, lambda image: image, seed=0), count)
    assert few.flatten().tolist() == numbers


def colours(path: Path) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in decode_image(str(path), mode="RGB").flatten(1).T.tolist()}


def test_grid_shows_each_form_in_its_column(tmp_path: Path) -> None:
    forms = {"left": torch.zeros(2, 3, 8, 8), "right": torch.zeros(2, 3, 8, 8)}
    forms["left"][:, 0] = 1.0
    forms["right"][:, 2] = 2.0  # clipped
    draw_grid(forms, tmp_path / "grid.png")
    picture = decode_image(str(tmp_path / "grid.png"), mode="RGB")
    _, height, width = picture.shape
    assert picture[:, height // 3, width // 4].tolist() == [255, 0, 0]
    assert picture[:, height // 3, 3 * width // 4].tolist() == [0, 0, 255]


def test_one_channel_is_grey(tmp_path: Path) -> None:
    draw_grid({"digits": torch.rand(3, 1, 8, 12)}, tmp_path / "grid.png", across=3)
    inside = [pixel for pixel in colours(tmp_path / "grid.png") if max(pixel) < 100]
    assert inside
    assert all(max(pixel) - min(pixel) < 40 for pixel in colours(tmp_path / "grid.png"))


def test_more_than_three_channels_show_the_first_three(tmp_path: Path) -> None:
    images = torch.zeros(1, 5, 8, 8)
    images[:, 1] = 1.0
    images[:, 4] = 1.0
    draw_grid({"bands": images}, tmp_path / "grid.png")
    assert (0, 255, 0) in colours(tmp_path / "grid.png")
