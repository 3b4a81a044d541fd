"""Random masks, and images to patches and back.

Shapes: B batch, C channels, H W pixels, L patches, P patch side.
"""

import pytest
import torch

from fcmae.pretraining.masking import patchify, random_mask, random_mask_of_data, unpatchify


def test_each_image_has_as_many_visible_patches_as_asked_for() -> None:
    mask = random_mask(64, (7, 7), 19)
    assert mask.grid == (7, 7)
    assert mask.visible.shape == (64, 19)
    assert (mask.visible.diff(dim=1) > 0).all()
    assert mask.visible.min() == 0
    assert mask.visible.max() == 48
    assert len(mask.visible.unique(dim=0)) == 64


def test_the_visible_patches_are_the_first_of_a_random_order() -> None:
    """The numbers that are drawn decide what a run computes: they are part of its reproducibility."""
    numbers = torch.rand(3, 12, generator=torch.Generator().manual_seed(7))
    mask = random_mask(3, (3, 4), 5, torch.Generator().manual_seed(7))
    for row, visible in zip(numbers, mask.visible.tolist(), strict=True):
        assert visible == sorted(row.argsort()[:5].tolist())


def test_a_generator_alone_decides() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.seed()
        return random_mask(4, (7, 7), 19, torch.Generator().manual_seed(seed)).visible

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_a_generator_leaves_the_global_one_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    random_mask(4, (7, 7), 19, torch.Generator().manual_seed(1))
    assert torch.equal(torch.rand(3), expected)


def test_every_patch_is_hidden_equally_often() -> None:
    mask = random_mask(4000, (2, 5), 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mask.hidden.mean(0), torch.full((10,), 0.6), rtol=0, atol=0.04)


@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize("image_size", [(8, 8), (8, 24), (16, 4)])
def test_unpatchify_undoes_patchify(channels: int, image_size: tuple[int, int]) -> None:
    images = torch.randn(2, channels, *image_size)
    patches = patchify(images, 4)
    assert patches.shape == (2, image_size[0] // 4 * image_size[1] // 4, 4 * 4 * channels)
    assert torch.equal(unpatchify(patches, 4, image_size), images)


def test_a_patch_is_a_piece_of_the_image_pixel_by_pixel() -> None:
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    piece = images[1, :, 4:8, 8:12]  # patch 5 of 2 x 3
    assert torch.equal(patches[1, 5], piece.permute(1, 2, 0).flatten())


@pytest.mark.parametrize("num_visible", [1, 10, 19, 48])
def test_patches_with_and_without_data_are_hidden_alike(num_visible: int) -> None:
    has_data = torch.stack([torch.randperm(49) < count for count in range(50)])
    mask = random_mask_of_data(has_data, (7, 7), num_visible)
    assert mask.visible.shape == (50, num_visible)
    assert torch.equal(mask.visible, mask.visible.sort(1).values)
    for count, (data, hidden) in enumerate(zip(has_data, mask.hidden, strict=True)):
        assert int((hidden == 0).sum()) == num_visible
        seen = int((data & (hidden == 0)).sum())
        assert abs(seen - count * num_visible / 49) <= 1
        if count >= 2:
            assert 1 <= seen < count


def test_where_all_patches_have_data_the_mask_is_the_usual_one() -> None:
    usual = random_mask(8, (7, 7), 19, torch.Generator().manual_seed(3))
    mask = random_mask_of_data(torch.ones(8, 49).bool(), (7, 7), 19, torch.Generator().manual_seed(3))
    assert torch.equal(mask.visible, usual.visible)


def test_every_patch_with_data_is_hidden_equally_often() -> None:
    has_data = (torch.arange(16) < 9).expand(4000, 16)
    often = random_mask_of_data(has_data, (4, 4), 6, torch.Generator().manual_seed(0)).hidden.mean(0)
    assert torch.allclose(often[:9], torch.full((9,), 6 / 9), atol=0.03)
    assert torch.allclose(often[9:], torch.full((7,), 4 / 7), atol=0.03)
