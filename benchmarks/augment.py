"""What does augmentation cost, drawn by readers and applied to batches, beside torchvision's on one image?

    python benchmarks/augment.py [--batch-size 32] [--image-size 224] [--rounds 20] [--device cpu]

Milliseconds an image, medians with their quartiles; the ways take turns. torchvision's run in the readers, on
uint8, one image after another; ours on the device of the network, a batch at a time.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from timing import Spread, time_side_by_side
from torch.utils.data import default_collate
from torchvision.transforms import v2

from fcmae.core.device import pick_device
from fcmae.pretraining.augment import RADIUS, SIGMA, Augmentation
from fcmae.pretraining.config import PretrainAugmentConfig

STRENGTH = 0.4
KINDS: dict[str, tuple[PretrainAugmentConfig, v2.Transform]] = {
    "colour jitter": (
        PretrainAugmentConfig(color_jitter=STRENGTH),
        v2.ColorJitter(STRENGTH, STRENGTH, STRENGTH),
    ),
    "grey": (PretrainAugmentConfig(grey=1.0), v2.Grayscale(3)),
    "blur": (PretrainAugmentConfig(blur=1.0), v2.GaussianBlur(2 * RADIUS + 1, SIGMA)),
}


def change_each(transform: v2.Transform, images: torch.Tensor) -> None:
    """Change one image after another, as readers do."""
    for image in images:
        transform(image)


def main() -> None:
    """Time each kind both ways, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=224, help="side in pixels")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(pick_device(options.device))
    shape = options.batch_size, 3, options.image_size, options.image_size
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    there = images.to(device)
    ways: dict[str, Callable[[], object]] = {}
    for name, (config, theirs) in KINDS.items():
        augmentation = Augmentation(config, 3)
        drawn = default_collate([augmentation.draw() for _ in images])
        drawn = {key: value.to(device) for key, value in drawn.items()}
        ways[f"{name}, ours"] = partial(augmentation.apply, there, None, drawn)
        ways[f"{name}, torchvision"] = partial(change_each, theirs, images)
    seconds = time_side_by_side(ways, options.rounds, device)
    table = Table(title=f"ms an image, {options.image_size} pixels, ours on {device}")
    for title in ("", "ms"):
        table.add_column(title)
    for name, each in seconds.items():
        table.add_row(name, str(Spread.of([1000 * value / options.batch_size for value in each])))
    Console().print(table)


if __name__ == "__main__":
    main()
