"""How many patches an image has and how many of them are visible: arithmetic, and its errors."""


def patch_grid(image_size: int | tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches of an image.

    Args:
        image_size: pixels, a side or (height, width)
        patch: side of a patch in pixels

    Raises:
        ValueError: the patch does not divide the image
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1 or height % patch or width % patch:
        fitting = [max(round(side / patch), 1) * patch for side in (height, width)]
        raise ValueError(
            f"image_size {height} x {width} is not a multiple of the patch size {patch}: the nearest is "
            f"{fitting[0]} x {fitting[1]}; or choose a smaller stem_stride (4, 2, 1: patches of 32, 16, 8)"
        )
    return height // patch, width // patch


def count_visible(num_patches: int, mask_ratio: float) -> int:
    """Patches left visible: int(L * (1 - ratio)), 19 of 49 at 0.6 (ConvNeXt V2's FCMAE).

    Raises:
        ValueError: the ratio is outside (0, 1), or hides everything or nothing of this many patches
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio {mask_ratio} is outside (0, 1): 0.6 is the published value")
    # A ratio is a decimal that binary fractions miss: 0.8 of 5 patches must leave 1, not int(0.99...).
    visible = int(round(num_patches * (1 - mask_ratio), 6))
    if visible == 0:
        raise ValueError(
            f"mask_ratio {mask_ratio} hides all {num_patches} patches of an image: "
            "lower the ratio, or use larger images or a smaller stem_stride"
        )
    if visible == num_patches:
        raise ValueError(f"mask_ratio {mask_ratio} hides none of the {num_patches} patches: raise it")
    return visible
