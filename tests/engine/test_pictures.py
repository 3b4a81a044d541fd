"""The pictures of a run show what they are given."""

from pathlib import Path

import torch
from torchvision.io import decode_image

from fcmae.engine.pictures import draw_curves, draw_grid


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


def test_curves_are_drawn_from_records_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    draw_curves([{"step": 1, "lr": 0.1, "not_finite": "loss", "files": []}], path)
    assert not path.exists()
    steps = [{"step": i, "epoch": i / 4, "loss": 1 / i, "lr": 0.0, "images_per_s": 9.0} for i in range(1, 9)]
    ends = [{"step": 4, "epoch": 1, "epoch_loss": 0.5}, {"step": 8, "epoch": 2, "epoch_loss": None}]
    draw_curves([*steps, *ends], path)
    assert (0xDD, 0x6B, 0x20) in colours(path)  # the mean of the one epoch that has one
