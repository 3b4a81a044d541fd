"""Can a file end a run that no damage of ours would make? Inputs grow by what code they reach in the readers.

    pip install atheris
    python benchmarks/fuzz_coverage.py [--seconds 60] [--kind png] [--corpus FOLDER] [--findings FOLDER]

libFuzzer, by atheris, mutates a whole file of every kind of `fuzz.py` and keeps what reaches new lines of
Pillow, tifffile or our own readers; decoders in C are run and not followed. The first byte of an input says
how it is read. Anything but a tensor or a BrokenImage, a read of 20 seconds or one of 2 GB ends it with a
status that is not 0, and leaves the input in --findings; `--replay FILE` reads one again. With --corpus the
next run goes on from what this one has found.
"""

import argparse
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris
import numpy  # noqa: F401  # before the rest: not what is followed
import torch  # noqa: F401

with atheris.instrument_imports(include=["PIL", "tifffile", "fcmae.data"]):
    import tifffile  # noqa: F401
    from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

    from fcmae.data.decode import BrokenImage, read_image

    Image.preinit()

from fuzz import CHANNELS, NO_DATA, SECONDS, kinds

MEMORY = 2048  # MB that one read may take
LONGEST = 1 << 16  # bytes of an input


def read_input(data: bytes) -> None:
    """Read bytes as the first of them says; let everything escape but a BrokenImage."""
    if not data:
        return
    content, way = data[1:], data[0]
    name = "input.npy" if content.startswith(b"\x93NUMPY") else "input.png"
    with suppress(BrokenImage):
        read_image(
            name,
            CHANNELS[way % len(CHANNELS)],
            value_range=(0, 255) if way % 3 else None,
            no_data=NO_DATA[way % len(NO_DATA)],
            max_pixels=1 << 22,
            content=content,
        )


def plant(corpus: Path, kind: str) -> None:
    """Write a whole file of each kind that begins so, each to be read as RGB."""
    for name, make in kinds().items():
        if name.startswith(kind):
            (corpus / name.replace(" ", "_").replace(";", "")).write_bytes(b"\0" + make())


def main() -> None:
    """Plant, and fuzz until the time is over; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="in all")
    parser.add_argument("--kind", default="", help="only kinds that begin so")
    parser.add_argument("--corpus", type=Path, help="folder that keeps inputs; by default none does")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder of what escapes")
    parser.add_argument("--replay", type=Path, help="read this finding, and no more")
    options = parser.parse_args()
    if options.replay:
        read_input(options.replay.read_bytes())
        return
    options.findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch)
        corpus.mkdir(parents=True, exist_ok=True)
        plant(corpus, options.kind)
        limits = [f"-max_total_time={options.seconds}", f"-timeout={SECONDS:.0f}", f"-rss_limit_mb={MEMORY}"]
        limits += [f"-max_len={LONGEST}", f"-artifact_prefix={options.findings}/"]
        atheris.Setup([sys.argv[0], *limits, str(corpus)], read_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
