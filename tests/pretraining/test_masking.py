"""Random masks, and images to patches and back.

Shapes: B batch, C channels, H W pixels, L patches, P patch side.
"""

import pytest
import torch

from fcmae.pretraining.masking import patchify, random_mask, unpatchify


def test_each_image_has_as_many_visible_patches_as_asked_for() -> None:
    mask = random_mask(64, 49, 19)
    assert mask.shape == (64, 49)
    assert mask.unique().tolist() == [0, 1]
    assert ((mask == 0).sum(1) == 19).all()
    assert len(mask.unique(dim=0)) == 64


def test_a_generator_alone_decides() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.seed()
        return random_mask(4, 49, 19, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_a_generator_leaves_the_global_one_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    random_mask(4, 49, 19, torch.Generator().manual_seed(1))
    assert torch.equal(torch.rand(3), expected)


def test_every_patch_is_hidden_equally_often() -> None:
    mask = random_mask(4000, 10, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mask.mean(0), torch.full((10,), 0.6), rtol=0, atol=0.04)


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
