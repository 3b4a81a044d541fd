"""How many images a second are read, cropped and flipped, beside the loaders that others use?

    python benchmarks/data.py [--images FOLDER] [--repeats 20] [--end-to-end] [--workers 2]

Reads photographs (FOLDER of one folder a class, or $FCMAE_SHARED_DATA/imagenet-sample.tar, or made ones) and
photographs of 12 megapixels that it makes, to random resized crops of 224 with a flip, uint8. On one core:
every pipeline takes the same images in turns, files in the page cache; seconds of the CPU, and ratios turn by
turn, with quartiles. With `--end-to-end`: wall time of all batches from processes that read, their start
included. Compared is what is installed of torchvision's ImageFolder with Pillow, timm, webdataset and SPDL.
"""

import argparse
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from PIL import Image
from rich.console import Console
from rich.table import Table
from timing import Spread, ratios, time_side_by_side
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode, v2

from fcmae.data import dataset as ours
from fcmae.data.dataset import ImageDataset
from fcmae.data.images import FolderSource
from fcmae.data.index import ImageIndex
from fcmae.data.loader import Loader
from fcmae.data.sampler import StepSampler
from fcmae.data.transforms import RandomCropFlip

SIZE = 224
SCALE = (0.2, 1.0)
CPU = torch.device("cpu")
Pass = Callable[[], object]


def main() -> None:
    """Find or make the photographs, time, print."""
    options = read_options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        photographs = find_photographs(options.images, Path(scratch))
        large = make_large(Path(scratch) / "large", photographs, options.large)
        print(describe(CPU))
        for folder, limit in ((photographs, options.limit), (large, options.large)):
            count = len(ImageIndex.scan(folder)) if options.end_to_end else limit
            shard = make_shard(folder, Path(scratch) / f"{folder.name}.tar", count)
            if options.end_to_end:
                ways, clock = end_to_end(folder, shard, options.workers), time.perf_counter
            else:
                ways, clock = on_one_core(folder, shard, count), time.process_time
            compare(f"{count} images of {folder.name}", ways, options.repeats, count, clock)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--limit", type=int, default=40, help="photographs in a turn on one core")
    parser.add_argument("--large", type=int, default=4, help="photographs of 12 megapixels in a turn")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--end-to-end", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def find_photographs(folder: Path | None, scratch: Path) -> Path:
    """A folder of photographs, one folder a class."""
    sample = Path(os.environ.get("FCMAE_SHARED_DATA", "../shared/data")) / "imagenet-sample.tar"
    if folder is not None:
        return folder
    if sample.exists():
        with tarfile.open(sample) as archive:
            archive.extractall(scratch, filter="data")
        return scratch / "imagenet-sample" / "train"
    generator = torch.Generator().manual_seed(0)
    for i in range(40):
        save_photograph(
            scratch / "made" / "a" / f"{i:03}.jpg", torch.full((1, 3, 400, 500), 128.0), generator
        )
    return scratch / "made"


def make_large(folder: Path, photographs: Path, count: int) -> Path:
    """Photographs of 4000 x 3000 pixels and 3 MB: enlarged ones, with the noise of a camera."""
    generator = torch.Generator().manual_seed(0)
    index = ImageIndex.scan(photographs)
    for i in index.spread(count):
        with Image.open(index.path(i)) as image:
            enlarged = image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(enlarged)).permute(2, 0, 1)[None].float()
        save_photograph(folder / "a" / f"{i:07}.jpg", pixels, generator)
    return folder


def save_photograph(path: Path, pixels: Tensor, generator: torch.Generator) -> None:
    """Write (1, 3, H, W) with noise at several scales as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape[-2:]
    for divisor in (8, 4, 2):
        noise = torch.randn(1, 1, height // divisor, width // divisor, generator=generator) * 5
        pixels = pixels + torch.nn.functional.interpolate(noise, (height, width), mode="bicubic")
    image = pixels[0].clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(image).save(path, quality=92)


def make_shard(folder: Path, shard: Path, limit: int) -> Path:
    """The first files of a folder as a shard of WebDataset."""
    index = ImageIndex.scan(folder)
    with tarfile.open(shard, "w") as archive:
        for i in range(limit):
            archive.add(index.path(i), f"{i:07}.jpg")
    return shard


def pillow_transform() -> Any:
    """Crop, resize and flip in Pillow, then to a tensor: most published training code."""
    crop = v2.RandomResizedCrop(SIZE, scale=SCALE, interpolation=InterpolationMode.BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])


class Former(FolderSource):
    """All pixels by torchvision's decoder: what this project did before it decoded large ones smaller."""

    def read_shrunk(self, i: int, shrink: Any) -> Tensor:
        from torchvision.io import ImageReadMode, decode_jpeg

        content = torch.from_numpy(np.fromfile(self.index.path(i), np.uint8))
        pixels: Tensor = decode_jpeg(content, ImageReadMode.RGB)
        return pixels


def our_dataset(source: FolderSource, *, shrinks: bool = True) -> ImageDataset:
    return ImageDataset(source, as_it_is, 0, RandomCropFlip((SIZE, SIZE), SCALE, shrinks=shrinks))


def as_it_is(image: Tensor) -> Tensor:
    return image


def timm_dataset(folder: Path) -> Any:
    """Timm's folder of images under its training transform without colours, to uint8."""
    from timm.data import create_dataset, create_transform

    dataset = create_dataset("", str(folder))
    options: dict[str, Any] = {"scale": SCALE, "color_jitter": None, "interpolation": "bicubic"}
    dataset.transform = create_transform(SIZE, is_training=True, use_prefetcher=True, **options)
    return dataset


def web_dataset(shard: Path) -> Any:
    """Images of a shard in the order in which they lie there, decoded by Pillow."""
    import webdataset

    return (
        webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
        .decode("pil")
        .to_tuple("jpg")
        .map_tuple(pillow_transform())
    )


def spdl_pass(paths: list[str]) -> None:
    """Images decoded by SPDL, that is by FFmpeg, and cropped as ours."""
    import spdl.io

    crop = RandomCropFlip((SIZE, SIZE), SCALE)
    for path in paths:
        pixels = spdl.io.to_numpy(spdl.io.load_image(path, filter_desc="format=rgb24"))
        crop(torch.from_numpy(pixels).permute(2, 0, 1))


def on_one_core(folder: Path, shard: Path, limit: int) -> dict[str, Pass]:
    """Every pipeline over the same images, in this process, as one that only reads."""
    vars(ours)["get_worker_info"] = lambda: True
    index = ImageIndex.scan(folder)
    source, count = FolderSource(index, 3), limit
    former = our_dataset(Former(index, 3), shrinks=False)
    plain = ImageFolder(str(folder), pillow_transform())
    ways: dict[str, Pass] = {
        "ImageFolder, Pillow": partial(take, plain, range(count)),
        "timm": partial(take, timm_dataset(folder), range(count)),
        "webdataset": lambda: [len(image) for image in web_dataset(shard)],
        "ours before: torchvision, all pixels": partial(take, former, keys(count)),
        "ours, --images.decode full": partial(take, our_dataset(source, shrinks=False), keys(count)),
        "ours": partial(take, our_dataset(source), keys(count)),
        "SPDL": partial(spdl_pass, [str(index.path(i)) for i in range(count)]),
    }
    return {name: run for name, run in ways.items() if runs(name, run)}


def keys(count: int) -> list[tuple[int, int]]:
    return [(0, i) for i in range(count)]


def take(dataset: Any, places: Iterable[Any]) -> None:
    """Read some of a data set."""
    for place in places:
        dataset[place]


def runs(name: str, run: Pass) -> bool:
    """Tell whether a pipeline is installed and works."""
    try:
        run()
        return True
    except (ImportError, RuntimeError) as error:
        print(f"without {name}: {str(error).splitlines()[0][:100]}")
        return False


def end_to_end(folder: Path, shard: Path, workers: int) -> dict[str, Pass]:
    """Every loader with processes that read, from their start to the last batch of the same images."""
    index = ImageIndex.scan(folder)
    batch = max(1, min(64, len(index) // 8))
    common: dict[str, Any] = {"batch_size": batch, "num_workers": workers, "drop_last": True}
    plain = ImageFolder(str(folder), pillow_transform())
    sampler = StepSampler(len(index), batch, 0, total_steps=len(index) // batch)
    ways: dict[str, Callable[[], Iterable[Any]]] = {
        "ImageFolder, Pillow": lambda: DataLoader(plain, shuffle=True, **common),
        "timm": lambda: DataLoader(timm_dataset(folder), shuffle=True, **common),
        "webdataset": lambda: DataLoader(web_dataset(shard), **common | {"num_workers": 1}),
        "ours": lambda: Loader(our_dataset(FolderSource(index, 3)), sampler, workers, CPU),
    }
    passes: dict[str, Pass] = {name: partial(drain, make) for name, make in ways.items()}
    return {name: run for name, run in passes.items() if runs(name, run)}


def drain(make: Callable[[], Iterable[Any]]) -> None:
    """Take all batches of a loader."""
    for _ in make():
        pass


def compare(title: str, ways: dict[str, Pass], repeats: int, images: int, clock: Callable[[], float]) -> None:
    """Time pipelines in turns, and print images/s with the ratio to the first and to the former one."""
    seconds = time_side_by_side(ways, repeats, CPU, warmup=1, clock=clock)
    first, former = next(iter(seconds)), next((name for name in seconds if "before" in name), None)
    table = Table(title=title, title_justify="left")
    for heading in ("pipeline", "images/s", f"times {first}", "times before"):
        table.add_column(heading, justify="left" if heading == "pipeline" else "right")
    for name, values in seconds.items():
        times = str(ratios(seconds[former], values)) if former else ""
        speed = Spread.of([images / value for value in values])
        table.add_row(name, str(speed), str(ratios(seconds[first], values)), times)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
