"""How many images a second does one core read, crop and flip, beside the usual Pillow pipeline?

    python benchmarks/decoding.py [--images FOLDER] [--limit 40] [--image-size 224] [--repeats 40]

Without a folder it makes photo-like JPEGs of about 500 x 400 pixels. Checks that both ways give the same
pixels for the same crops, then times them in short turns, one thread, files in the page cache; prints
images/s and the ratio with its quartiles. `--decoders` times decoding alone, by each decoder that is there,
of JPEG, PNG and WebP.
"""

import argparse
import io
import random
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from timing import Spread, ratios, time_side_by_side
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from fcmae.data.dataset import seeded
from fcmae.data.decode import BrokenImage, read_image
from fcmae.data.index import ImageIndex
from fcmae.data.transforms import RandomCropFlip

Pipeline = Callable[[Path], Tensor]


def main() -> None:
    """Check, time, print."""
    options = read_options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images or make_photos(Path(scratch), options.limit)
        paths = readable(folder, options.limit)
        if options.decoders:
            compare_decoders(paths, options.repeats)
            return
        size = (options.image_size, options.image_size)
        pillow, ours = pillow_pipeline(size), our_pipeline(size)
        difference = check_agreement(paths, pillow, ours)
        ways = {"Pillow": run_over(paths, pillow), "ours": run_over(paths, ours)}
        seconds = time_side_by_side(ways, options.repeats, torch.device("cpu"))
    table = Table(
        title=f"{len(paths)} images to {size[0]} x {size[1]}, pixels within {difference:.2f} of 255",
        title_justify="left",
    )
    for heading in ("pipeline", "ms per image", "images/s", "times Pillow"):
        table.add_column(heading, justify="left" if heading == "pipeline" else "right")
    for name, values in seconds.items():
        each = Spread.of([1e3 * value / len(paths) for value in values])
        table.add_row(name, str(each), f"{1e3 / each.median:.0f}", str(ratios(seconds["Pillow"], values)))
    Console(width=110).print(table)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--limit", type=int, default=40, help="number of images used")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--decoders", action="store_true", help="time decoding alone, by decoder and format")
    return parser.parse_args()


def compare_decoders(paths: list[Path], repeats: int) -> None:
    """Time decoding of JPEG, PNG and WebP from memory; print ms per image and the ratio to Pillow."""
    table = Table("format", "decoder", "ms per image", "times Pillow", "largest difference")
    for kind in ("JPEG", "PNG", "WEBP"):
        files = [encode(path, kind) for path in paths]
        decoders = find_decoders()
        pixels = [decoders["Pillow"](data).int() for data in files]
        ways = {name: partial(decode_all, decode, files) for name, decode in decoders.items()}
        seconds = time_side_by_side(ways, repeats, torch.device("cpu"))
        for name, values in seconds.items():
            each = Spread.of([1e3 * value / len(files) for value in values])
            others = zip(files, pixels, strict=True)
            difference = max(int((decoders[name](data) - wanted).abs().max()) for data, wanted in others)
            table.add_row(kind, name, str(each), str(ratios(seconds["Pillow"], values)), str(difference))
    Console(width=110).print(table)


def encode(path: Path, kind: str) -> bytes:
    """Return a photograph in a format: as it lies in its file, or anew."""
    with Image.open(path) as image:
        if image.format == kind:
            return path.read_bytes()
        image.convert("RGB").save(stream := io.BytesIO(), kind, quality=90)
    return stream.getvalue()


def find_decoders() -> dict[str, Callable[[bytes], Tensor]]:
    """Return the decoders that are installed, each from bytes to uint8 (3, H, W)."""
    found: dict[str, Callable[[bytes], Tensor]] = {"Pillow": decode_with_pillow}
    with suppress(ImportError):
        from torchvision.io import ImageReadMode, decode_image

        found["torchvision"] = lambda data: decode_image(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        )
    with suppress(ImportError, RuntimeError):
        from torchcodec import decoders

        found["torchcodec"] = decoders.decode_image
    return found


def decode_with_pillow(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        array = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def decode_all(decode: Callable[[bytes], Tensor], files: list[bytes]) -> None:
    for data in files:
        decode(data)


def make_photos(folder: Path, count: int) -> Path:
    """JPEGs with the size and the frequencies of photographs: noise at every scale, most at coarse ones."""
    generator = torch.Generator().manual_seed(0)
    for i in track(range(count), "Making images", transient=True):
        height, width = (int(side + torch.randint(-60, 60, (), generator=generator)) for side in (400, 500))
        pixels = torch.full((1, 3, height, width), 128.0)
        for cells in (4, 8, 16, 32, 64, 128, 256):
            noise = torch.randn(1, 3, cells, cells, generator=generator) * 160 / cells**0.5
            pixels += torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
        F.to_pil_image(pixels[0].clamp(0, 255).to(torch.uint8)).save(folder / f"{i:04}.jpg", quality=90)
    return folder


def readable(folder: Path, limit: int) -> list[Path]:
    """Images from all over the folder, without the broken ones."""
    index = ImageIndex.scan(folder)
    paths = [index.path(i) for i in range(0, len(index), max(1, len(index) // limit))][:limit]
    return [path for path in paths if is_readable(path)]


def is_readable(path: Path) -> bool:
    try:
        read_image(path, 3)
    except BrokenImage:
        return False
    return True


def our_pipeline(size: tuple[int, int]) -> Pipeline:
    """Our reading and augmentation of one file."""
    transform = RandomCropFlip(size)
    return lambda path: transform(read_image(path, 3))


def pillow_pipeline(size: tuple[int, int]) -> Pipeline:
    """That of most published training code: decode, crop, resize and flip in Pillow, then to a tensor."""
    crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=InterpolationMode.BICUBIC)
    transform = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return lambda path: transform(Image.open(path).convert("RGB"))


def run_over(paths: list[Path], pipeline: Pipeline) -> Callable[[], None]:
    """All images once, with the same crops in every run."""

    def run() -> None:
        with seeded(0):
            for path in paths:
                pipeline(path)

    return run


def check_agreement(paths: list[Path], pillow: Pipeline, ours: Pipeline) -> float:
    """Mean difference of the pixels of the same crops, in levels of 255; an error where it is not small."""
    differences = []
    for key, path in enumerate(random.Random(0).sample(paths, min(20, len(paths)))):
        crops: list[Tensor] = []
        for pipeline in (pillow, ours):
            with seeded(key):
                crops.append(pipeline(path).float())
        differences.append((crops[0] - crops[1]).abs().mean().item())
    if max(differences) > 2:
        raise SystemExit(f"the pipelines differ by {max(differences):.1f} levels of 255: not the same crop")
    return sum(differences) / len(differences)


if __name__ == "__main__":
    main()
