"""How long does each decoder take for a photograph as JPEG, PNG and WebP, and are its pixels the same?

    python benchmarks/decoding.py [--images FOLDER] [--limit 40] [--repeats 10]

Without a folder it makes photo-like JPEGs of about 500 x 400 pixels. Decodes from memory in short turns, on
one thread, with each decoder that is installed; prints ms per image and the ratio to Pillow with quartiles.
"""

import argparse
import io
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
from torchvision.transforms.v2 import functional as F

from fcmae.data.decode import BrokenImage, read_image
from fcmae.data.index import ImageIndex


def main() -> None:
    """Time, print."""
    options = read_options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.images or make_photos(Path(scratch), options.limit)
        compare_decoders(readable(folder, options.limit), options.repeats)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of images")
    parser.add_argument("--limit", type=int, default=40, help="number of images used")
    parser.add_argument("--repeats", type=int, default=10)
    return parser.parse_args()


def compare_decoders(paths: list[Path], repeats: int) -> None:
    """Time decoding of JPEG, PNG and WebP from memory; print ms per image and the ratio to Pillow."""
    table = Table("format", "decoder", "ms per image", "times Pillow", "largest difference")
    for kind in ("JPEG", "PNG", "WEBP"):
        files = [encode(path, kind) for path in paths]
        decoders = find_decoders()
        if kind != "JPEG":
            decoders.pop("simplejpeg", None)
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
        from simplejpeg import decode_jpeg

        found["simplejpeg"] = lambda data: torch.from_numpy(decode_jpeg(data)).permute(2, 0, 1)
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


if __name__ == "__main__":
    main()
