"""How a network divides an image: strides, patches, and how many of these are visible."""

from fcmae.core.errors import UserError

STEM_STRIDES = (4, 2, 1)


def stage_strides(stem_stride: int) -> list[int]:
    """Return how many pixels a position of each stage's map is wide and high.

    Three downsamplings by 2 follow the stem (ConvNeXt, arXiv 2201.03545, section 2.2). The last stride is the
    network's, and the side of a mask's patches.

    Raises:
        UserError: there is no such stem
    """
    if stem_stride not in STEM_STRIDES:
        raise UserError(f"stem_stride {stem_stride}: choose 4, 2 or 1 (a stride of 32, 16 or 8)")
    return [stem_stride * 2**stage for stage in range(4)]


def total_stride(stem_stride: int) -> int:
    """Return how many pixels a position of the last stage's map is wide and high.

    Raises:
        UserError: there is no such stem
    """
    return stage_strides(stem_stride)[-1]


def check_image_size(size: tuple[int, int], stride: int, *, any_stem: bool = False) -> None:
    """Refuse images that a network's stride does not divide.

    Args:
        size: (height, width) in pixels
        stride: of the network, in pixels
        any_stem: whether the network could as well have a smaller stem, which is then a remedy

    Raises:
        UserError: the message names the nearest size
    """
    height, width = size
    if height % stride or width % stride or height < 1 or width < 1:
        nearest = [max(round(side / stride), 1) * stride for side in size]
        smaller = any_stem and stride > total_stride(min(STEM_STRIDES))
        raise UserError(
            f"image size {height} x {width} is not a multiple of the network's stride {stride}: the nearest "
            f"is {nearest[0]} x {nearest[1]}{'; or choose a smaller stem_stride' if smaller else ''}"
        )


def patch_grid(image_size: int | tuple[int, int], stride: int, *, any_stem: bool = True) -> tuple[int, int]:
    """Return rows and columns of an image's patches.

    Args:
        image_size: pixels, a side or (height, width)
        stride: of the network, the side of a patch in pixels
        any_stem: whether the network could as well have a smaller stem, which is then a remedy

    Raises:
        UserError: the stride does not divide the image
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_image_size((height, width), stride, any_stem=any_stem)
    return height // stride, width // stride


def count_visible(num_patches: int, mask_ratio: float) -> int:
    """Return how many patches stay visible: int(L * (1 - ratio)), 19 of 49 at 0.6 (ConvNeXt V2's FCMAE).

    Args:
        num_patches: L, of an image
        mask_ratio: fraction of the patches that is hidden

    Raises:
        UserError: the ratio is outside (0, 1), or hides everything or nothing of this many patches
    """
    if not 0 < mask_ratio < 1:
        raise UserError(f"mask_ratio {mask_ratio} is outside (0, 1): 0.6 is the published value")
    # A ratio is a decimal that binary fractions miss: 0.8 of 5 patches must leave 1, not int(0.99...).
    visible = int(round(num_patches * (1 - mask_ratio), 6))
    if visible == 0:
        raise UserError(
            f"mask_ratio {mask_ratio} hides all {num_patches} patches of an image: "
            "lower the ratio, or use larger images or an encoder of a smaller stride"
        )
    if visible == num_patches:
        raise UserError(f"mask_ratio {mask_ratio} hides none of the {num_patches} patches: raise it")
    return visible
