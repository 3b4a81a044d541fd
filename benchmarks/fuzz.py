"""Can a damaged file end a run? Reads damaged images of every kind; reports crashes, hangs and exceptions.

    python benchmarks/fuzz.py [--damages 500] [--first 0] [--kind png] [--seconds 20]

A child process reads; one that dies or takes too long is replaced, and what it held is named by kind and
number, which is the same damage on every machine with the same codecs. Damage is flipped bits, a cut, a
stretch of zeros or noise, or several of them; half of the damaged PNGs get right checksums again, which would
stop the decoder at once. Exit status 1 where anything but a tensor or a BrokenImage came out.
"""

import argparse
import io
import mmap
import os
import signal
import struct
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features

from fcmae.data.decode import BrokenImage, read_image
from fcmae.data.suffixes import pillow_formats

SIDES = (48, 40)
SECONDS = 20.0
ADAM7 = (  # first row and step, first column and step
    *((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4)),
    *((2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)),
)
PNG = b"\x89PNG\r\n\x1a\n"
CHANNELS = (3, 1, 4, 5)  # that are asked for, one after another
NO_DATA = (None, None, "nan", "mask", 0.0)


def photo(mode: str = "RGB") -> Image.Image:
    """Make a smooth picture of any of Pillow's modes."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(noise).resize(SIDES, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode) if mode in ("RGBA", "LA") else image.convert("RGB").convert(mode)


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode a picture."""
    image.save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


def noise_rows(height: int, width: int, samples: int, top: int, down: int, left: int, right: int) -> bytes:
    """Make the rows of one pass of a PNG, each with its filter first."""
    size = len(range(top, height, down)), 1 + 2 * samples * len(range(left, width, right))
    rows = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    rows[:, 0] %= 5
    return rows.tobytes()


def deep_png(interlaced: bool = False, samples: int = 3) -> bytes:
    """Encode noise of 16 bits a value, plain or in Adam7's seven passes: Pillow writes neither."""
    width, height = SIDES
    passes = ADAM7 if interlaced else ((0, 1, 0, 1),)
    rows = b"".join(noise_rows(height, width, samples, *step) for step in passes)
    kind = {2: 4, 3: 2}[samples]  # grey and transparency, or colours
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, int(interlaced))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def npy() -> bytes:
    """Encode an array of five channels."""
    np.save(stream := io.BytesIO(), np.zeros((*SIDES, 5), np.float32))
    return stream.getvalue()


def tiff(dtype: type[np.generic], samples: int, **options: Any) -> bytes:
    """Encode what only tifffile writes."""
    import tifffile

    values = np.random.default_rng(0).random((*SIDES, samples)) * (200 if dtype is not np.float32 else 1)
    tifffile.imwrite(stream := io.BytesIO(), values.astype(dtype), **options)
    return stream.getvalue()


def kinds() -> dict[str, Callable[[], bytes]]:
    """List the kinds of file, each with what makes a whole one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pages = [photo("I;16")] * 5
    found: dict[str, Callable[[], bytes]] = {
        "jpg": lambda: save(photo(), "JPEG", quality=90, exif=exif),
        "jpg progressive": lambda: save(photo(), "JPEG", progressive=True),
        "jpg grey": lambda: save(photo("L"), "JPEG"),
        "jpg cmyk": lambda: save(photo("CMYK"), "JPEG"),
        "png 16 bits": deep_png,
        "png interlaced": partial(deep_png, interlaced=True),
        "png grey and transparency": partial(deep_png, samples=2),
        "webp": lambda: save(photo(), "WEBP"),
        "webp lossless": lambda: save(photo("RGBA"), "WEBP", lossless=True, exif=exif),
        "webp animated": lambda: save(photo(), "WEBP", save_all=True, append_images=[photo("L")] * 2),
        "bmp": lambda: save(photo(), "BMP"),
        "bmp palette": lambda: save(photo("P"), "BMP"),
        "gif": lambda: save(photo("P"), "GIF"),
        "tif pages": lambda: save(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "npy": npy,
    }
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        found[f"png {mode}"] = partial(save, photo(mode), "PNG", exif=exif)
    compressions = {
        "raw": "RGB",
        "tiff_lzw": "RGB",
        "tiff_adobe_deflate": "RGBA",
        "jpeg": "RGB",
        "group4": "1",
    }
    for compression, mode in compressions.items():
        found[f"tif {compression}"] = partial(save, photo(mode), "TIFF", compression=compression)
    for compression in ("raw", "tiff_lzw"):
        found[f"tif 16 bits {compression}"] = partial(save, photo("I;16"), "TIFF", compression=compression)
    try:
        import tifffile  # noqa: F401

        found["tif colour 16 bits"] = partial(tiff, np.uint16, 3, photometric="rgb")
        found["tif float"] = partial(
            tiff, np.float32, 5, photometric="minisblack", planarconfig="contig", compression="zlib"
        )
        found["tif tiled"] = partial(
            tiff, np.uint16, 5, photometric="minisblack", planarconfig="contig", tile=(16, 16)
        )
    except ImportError:
        pass
    if "HEIF" in pillow_formats():
        found["heic"] = lambda: save(photo(), "HEIF", exif=exif)
    if features.check("avif"):
        found["avif"] = lambda: save(photo(), "AVIF")
    return found


def damage(whole: bytes, number: int) -> bytes:
    """Return a file with damage `number`: one to four of flipped bits, cuts, zeros and noise."""
    generator = np.random.default_rng(number)
    data = np.frombuffer(whole, np.uint8).copy()
    for _ in range(int(generator.integers(1, 5)) if number % 2 else 1):
        # Headers are where decoders stumble: half of all damage lies in the first 200 bytes.
        end = len(data) if generator.random() < 0.5 else min(len(data), 200)
        start = int(generator.integers(max(1, end)))
        stretch = slice(start, start + int(generator.integers(1, 40)))
        match int(generator.integers(5)):
            case 0 | 1:
                data[start : start + 1] ^= np.uint8(1 << int(generator.integers(8)))
            case 2 if start:
                data = data[:start]
            case 3:
                data[stretch] = 0
            case _:
                data[stretch] = generator.integers(0, 256, len(data[stretch]))
    return mend_checksums(data.tobytes()) if number % 4 < 2 else data.tobytes()


def mend_checksums(data: bytes) -> bytes:
    """Give the chunks of a PNG the checksums of what they hold; other files stay as they are."""
    if not data.startswith(PNG):
        return data
    mended, at = bytearray(data), len(PNG)
    while at + 12 <= len(data):
        end = at + 8 + struct.unpack_from(">I", data, at)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(mended)


def read_damaged(path: Path, whole: bytes, number: int) -> str:
    """Read a file with damage `number`; returns "read", "broken" or the traceback of what escaped."""
    path.write_bytes(damage(whole, number))
    try:
        image = read_image(
            path,
            CHANNELS[number % len(CHANNELS)],
            value_range=(0, 255) if number % 3 else None,
            no_data=NO_DATA[number % len(NO_DATA)],
        )
        return "read" if image.dtype == torch.uint8 and int(image.sum()) >= 0 else "no picture"
    except BrokenImage:
        return "broken"
    except BaseException:
        return traceback.format_exc()


def fuzz(kind: str, whole: bytes, numbers: range, seconds: float = SECONDS) -> Iterator[tuple[int, str]]:
    """Read one file with many damages, in child processes; yield each number and what came of it.

    Args:
        kind: the file's suffix, and more words
        whole: the file
        numbers: of the damages
        seconds: that a read may take

    Yields:
        a number and "read", "broken", "signal 11" and the like, or a traceback
    """
    held = mmap.mmap(-1, 8)  # the number that the child reads, in memory that both see
    number = numbers.start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged.{kind.split()[0]}"
        while number < numbers.stop:
            receiving, sending = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(receiving)
                _read_all(path, whole, range(number, numbers.stop), held, sending, seconds)
            os.close(sending)
            with os.fdopen(receiving) as lines:
                for line in lines:
                    done, _, outcome = line.rstrip("\n").partition(" ")
                    yield int(done), outcome.replace("\\n", "\n")
            status = os.waitpid(child, 0)[1]
            if status == 0:
                return
            number = struct.unpack("q", held)[0]
            yield number, f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status >> 8}"
            number += 1


def _read_all(
    path: Path, whole: bytes, numbers: range, held: mmap.mmap, sending: int, seconds: float
) -> None:
    """Read in the child, which SIGALRM ends where a decoder hangs; never returns."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in numbers:
        held[:] = struct.pack("q", number)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        outcome = read_damaged(path, whole, number).replace("\n", "\\n")
        os.write(sending, f"{number} {outcome}\n".encode())
    os._exit(0)


def main() -> int:
    """Damage, read, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--damages", type=int, default=500, help="of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first damage")
    parser.add_argument("--kind", default="", help="only kinds that begin so")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that one read may take")
    options = parser.parse_args()
    escaped = 0
    for kind, make in kinds().items():
        if not kind.startswith(options.kind):
            continue
        numbers = range(options.first, options.first + options.damages)
        counts: Counter[str] = Counter()
        for number, outcome in fuzz(kind, make(), numbers, options.seconds):
            counts[outcome if outcome in ("read", "broken") else "ESCAPED"] += 1
            if outcome not in ("read", "broken"):
                print(f"{kind}, damage {number}: {outcome}", flush=True)
        escaped += counts["ESCAPED"]
        print(f"{kind:24}", *(f"{count} {outcome}" for outcome, count in counts.items()), flush=True)
    return int(escaped > 0)


if __name__ == "__main__":
    sys.exit(main())
