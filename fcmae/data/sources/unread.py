"""Data of kinds that are not read: each is told by its first bytes, with the line that converts it."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from fcmae.core.errors import UserError
from fcmae.data.index import ImageIndex
from fcmae.data.sources.base import Opener, SourceOptions

_START = 136  # bytes that tell the kinds apart


class Unread(NamedTuple):
    """A kind that is not read.

    Args:
        kind: what it is
        at, magic: bytes that tell it, and where they lie
        remedy: what to do, with {path} and {stem} for what was given
    """

    kind: str
    at: int
    magic: bytes
    remedy: str


_UNPACK = "; then give {stem}, which is read in place where it is a tar archive"
KINDS = (
    Unread("a zip archive", 0, b"PK\3\4", "unzip -q {path} -d {stem}; then give {stem}"),
    Unread("compressed by gzip", 0, b"\x1f\x8b", "gzip -dc {path} > {stem}" + _UNPACK),
    Unread("compressed by bzip2", 0, b"BZh", "bzip2 -dc {path} > {stem}" + _UNPACK),
    Unread("compressed by xz", 0, b"\xfd7zXZ\0", "xz -dc {path} > {stem}" + _UNPACK),
    Unread("compressed by zstd", 0, b"\x28\xb5\x2f\xfd", "zstd -dc {path} > {stem}" + _UNPACK),
    Unread("a 7z archive", 0, b"7z\xbc\xaf\x27\x1c", "7z x {path} -o{stem}; then give {stem}"),
    Unread("a rar archive", 0, b"Rar!\x1a\7", "unrar x {path} {stem}/; then give {stem}"),
    Unread(
        "HDF5",
        0,
        b"\x89HDF\r\n\x1a\n",
        'python -c "import h5py, numpy, sys; '
        "numpy.save(sys.argv[2], h5py.File(sys.argv[1])['images'][:])\" "
        "{path} {stem}.npy, with the name of its array in place of images; then give {stem}.npy",
    ),
    Unread(
        "DICOM",
        128,
        b"DICM",
        'python -c "import pydicom, numpy, sys; '
        'numpy.save(sys.argv[2], pydicom.dcmread(sys.argv[1]).pixel_array)" {path} {stem}.npy; '
        "then give the folder of such files, with --images.value-range",
    ),
    Unread(
        "an LMDB database",
        16,
        b"\xde\xc0\xef\xbe",
        'mkdir {stem}_files && python -c "import lmdb, sys; '
        "[open(sys.argv[2] + key.hex(), 'wb').write(value) "
        "for key, value in "
        'lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False).begin().cursor()]" '
        "{path} {stem}_files/, where its values are image files; then give {stem}_files",
    ),
    Unread("an SQLite database", 0, b"SQLite format 3\0", "write its images to files and give their folder"),
    Unread("a PDF", 0, b"%PDF", "pdfimages -all {path} {stem}; then give the folder of the images"),
)
SCHEMES = {
    "s3": "aws s3 sync {path} {stem}",
    "gs": "gcloud storage rsync --recursive {path} {stem}",
    "az": "azcopy copy {path} {stem} --recursive",
    "hf": "hf download --repo-type dataset {repository} --local-dir {stem}",
    "http": "curl -LO {path}",
    "https": "curl -LO {path}",
    "ftp": "curl -LO {path}",
}


class UnreadOpener(Opener):
    """What is recognised only to say what it is."""

    @classmethod
    def matches(cls, spec: str) -> bool:
        return (spec.partition("://")[0].lower() in SCHEMES and "://" in spec) or find_kind(spec) is not None

    def list_images(self) -> list[ImageIndex]:
        self.refuse()

    def list_splits(self, val_fraction: float, seed: int) -> list[ImageIndex]:
        self.refuse()

    def val_classes(self) -> list[str]:
        self.refuse()

    def is_same(self, other: Opener, lists: Sequence[ImageIndex]) -> bool:
        return False

    def open_images(self, options: SourceOptions) -> NoReturn:
        self.refuse()

    def open_splits(self, options: SourceOptions) -> NoReturn:
        self.refuse()

    def refuse(self) -> NoReturn:
        """Say what it is and what to do."""
        scheme, slashes, place = self.spec.partition("://")
        if slashes and scheme.lower() in SCHEMES:
            words = {
                "path": shlex.quote(self.spec),
                "stem": shlex.quote(place.rstrip("/").rpartition("/")[2]),
                "repository": place.removeprefix("datasets/"),
            }
            raise UserError(
                f"{self.spec} is on the network, and images are read from disk: "
                f"{SCHEMES[scheme.lower()].format(**words)}; then give what that wrote"
            )
        found = find_kind(self.spec)
        assert found is not None
        kind, path = found
        stem = Path(self.spec).expanduser().with_suffix("")
        words = {"path": shlex.quote(str(path)), "stem": shlex.quote(str(stem))}
        raise UserError(
            f"{self.spec} is {kind.kind}, which is not read as it is: {kind.remedy.format(**words)}"
        )


def find_kind(spec: str) -> tuple[Unread, Path] | None:
    """Tell of which unread kind a file, or a folder of an LMDB database, is, and which file says so."""
    path = Path(spec).expanduser()
    with suppress(OSError):
        if path.is_dir():
            path = path / "data.mdb"
        elif path.suffix.lower() == ".npz":  # a zip archive of arrays
            return None
        with path.open("rb") as file:
            start = file.read(_START)
        found = next((kind for kind in KINDS if start[kind.at :].startswith(kind.magic)), None)
        return None if found is None else (found, path)
    return None
