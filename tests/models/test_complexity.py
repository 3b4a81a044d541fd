"""Parameters and multiply-adds are those that the papers print, digit for digit."""

import math

import pytest

from fcmae.models.complexity import measure_complexity

# Parameters (M) and multiply-adds (G) at 224: ConvNeXt V2, arXiv 2301.00808, and its public code.
V2_AT_224 = {
    "atto": ("3.7", "0.55"),
    "femto": ("5.2", "0.78"),
    "pico": ("9.1", "1.37"),
    "nano": ("15.6", "2.45"),
    "tiny": ("28.6", "4.47"),
    "base": ("89", "15.4"),
    "large": ("198", "34.4"),
    "huge": ("660", "115"),
}
# ConvNeXt, arXiv 2201.03545, table 1.
V1_AT_224 = {
    "tiny": ("28.6", "4.5"),
    "small": ("50", "8.7"),
    "base": ("89", "15.4"),
    "large": ("198", "34.4"),
    "xlarge": ("350", "60.9"),
}
V2_AT_OTHER_SIZES = [
    ("nano", 384, "7.21"),
    ("tiny", 384, "13.1"),
    ("base", 384, "45.2"),
    ("large", 384, "101.1"),
    ("huge", 384, "337.9"),
    ("huge", 512, "600.8"),
]
AT_224 = [(f"convnextv2_{size}", *row) for size, row in V2_AT_224.items()]
AT_224 += [(f"convnext_{size}", *row) for size, row in V1_AT_224.items()]


def matches(value: float, printed: str) -> bool:
    """Whether rounding or truncating gives the printed digits: the published tables mix the two."""
    unit = 10.0 ** -len(printed.partition(".")[2])
    return any(math.isclose(way(value / unit) * unit, float(printed)) for way in (round, math.floor))


@pytest.mark.parametrize(("name", "parameters", "macs"), AT_224)
def test_published_costs_at_224(name: str, parameters: str, macs: str) -> None:
    cost = measure_complexity(name)
    assert matches(cost.parameters / 1e6, parameters), cost
    assert matches(cost.macs / 1e9, macs), cost


@pytest.mark.parametrize(("size", "side", "macs"), V2_AT_OTHER_SIZES)
def test_published_costs_at_other_sizes(size: str, side: int, macs: str) -> None:
    cost = measure_complexity(f"convnextv2_{size}", (side, side))
    assert matches(cost.macs / 1e9, macs), cost


def test_activations_are_what_convolutions_and_linear_layers_put_out() -> None:
    """Each stage: a downsampling, C; each block: depthwise C, pointwise 4 C and C, at every position."""
    depths, dims, positions = (1, 2, 1, 3), (5, 6, 7, 8), (8 * 16, 4 * 8, 2 * 4, 1 * 2)
    cost = measure_complexity("convnextv2_atto", (32, 64), depths=depths, dims=dims, num_classes=3)
    stages = [n * dim * (1 + 6 * depth) for n, dim, depth in zip(positions, dims, depths, strict=True)]
    assert cost.activations == sum(stages) + 3


def test_visible_tiles_cost_their_fraction_of_the_dense_network() -> None:
    tiles = measure_complexity("convnextv2_atto", num_visible=19, num_classes=0)
    dense = measure_complexity("convnextv2_atto", num_classes=0)
    assert tiles.macs == pytest.approx(19 / 49 * dense.macs, rel=1e-4)
    assert tiles.activations == pytest.approx(19 / 49 * dense.activations, rel=1e-4)
