"""The curves of a run show what they are given."""

from pathlib import Path

from torchvision.io import decode_image

from fcmae.engine.pictures import draw_curves


def colours(path: Path) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in decode_image(str(path), mode="RGB").flatten(1).T.tolist()}


def test_curves_are_drawn_from_records_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    draw_curves([{"step": 1, "lr": 0.1, "not_finite": "loss", "files": []}], path)
    assert not path.exists()
    steps = [{"step": i, "epoch": i / 4, "loss": 1 / i, "lr": 0.0, "images_per_s": 9.0} for i in range(1, 9)]
    ends = [{"step": 4, "epoch": 1, "epoch_loss": 0.5}, {"step": 8, "epoch": 2, "epoch_loss": None}]
    draw_curves([*steps, *ends], path)
    assert (0xDD, 0x6B, 0x20) in colours(path)  # the mean of the one epoch that has one
