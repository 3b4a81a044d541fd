"""Patches of an image, and how many of them are visible."""

import pytest

from fcmae.core.errors import UserError
from fcmae.models.geometry import check_image_size, count_visible, patch_grid, stage_strides, total_stride


@pytest.mark.parametrize(("stem", "strides"), [(4, [4, 8, 16, 32]), (2, [2, 4, 8, 16]), (1, [1, 2, 4, 8])])
def test_strides(stem: int, strides: list[int]) -> None:
    assert stage_strides(stem) == strides
    assert total_stride(stem) == strides[-1]


@pytest.mark.parametrize("stem", [0, 3, 8])
def test_a_stem_that_there_is_not(stem: int) -> None:
    with pytest.raises(UserError, match=f"stem_stride {stem}: choose 4, 2 or 1"):
        total_stride(stem)


def test_a_network_that_stands_is_not_to_be_given_another_stem() -> None:
    check_image_size((64, 96), 32)
    with pytest.raises(UserError, match=r"image size 64 x 90 .* the nearest is 64 x 96$"):
        check_image_size((64, 90), 32)
    with pytest.raises(UserError, match=r"the nearest is 64 x 88$"):
        check_image_size((64, 90), 8, any_stem=True)


@pytest.mark.parametrize(
    ("image_size", "patch", "grid"),
    [(224, 32, (7, 7)), ((64, 224), 32, (2, 7)), (32, 8, (4, 4)), ((8, 8), 8, (1, 1))],
)
def test_patch_grid(image_size: int | tuple[int, int], patch: int, grid: tuple[int, int]) -> None:
    assert patch_grid(image_size, patch) == grid


@pytest.mark.parametrize(
    ("image_size", "nearest"),
    [(225, "224 x 224"), ((250, 64), "256 x 64"), (5, "32 x 32"), (0, "32 x 32"), ((-32, 32), "32 x 32")],
)
def test_a_size_that_the_patch_does_not_divide(image_size: int | tuple[int, int], nearest: str) -> None:
    with pytest.raises(UserError, match=f"stride 32: the nearest is {nearest}; or choose a smaller stem"):
        patch_grid(image_size, 32)


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"),
    [(49, 0.6, 19), (16, 0.6, 6), (5, 0.8, 1), (10, 0.9, 1), (10, 0.7, 3), (1000, 0.999, 1), (2, 0.01, 1)],
)
def test_the_visible_are_rounded_down_as_decimals_are(patches: int, ratio: float, visible: int) -> None:
    """Ratios such as 0.8, 0.9 and 0.7 are where int(L * (1 - ratio)) in binary fractions is one too few."""
    assert count_visible(patches, ratio) == visible


@pytest.mark.parametrize("ratio", [-0.1, 0.0, 1.0, 60, float("nan")])
def test_a_ratio_outside_0_to_1(ratio: float) -> None:
    with pytest.raises(UserError, match=r"outside \(0, 1\)"):
        count_visible(49, ratio)


def test_a_ratio_that_hides_everything_or_nothing() -> None:
    with pytest.raises(UserError, match="hides all 4 patches"):
        count_visible(4, 0.8)
    with pytest.raises(UserError, match="hides none of the 4 patches"):
        count_visible(4, 1e-9)
