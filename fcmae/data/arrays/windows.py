"""Arrays on disk that are read a window at a time: .npy, .npz, zarr, TIFF; never as a whole.

Axes are letters: y and x of a picture, c of its channels, anything else of a stack of pictures.
"""

import logging
import math
import os
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fcmae.core.errors import UserError
from fcmae.data.suffixes import TIFF_STARTS, read_npy_header

NPY, ZIP = b"\x93NUMPY", b"PK\3\4"
ZARR_FILES = (".zarray", ".zgroup", "zarr.json")
MOST_UNPACKED = 1 << 32  # bytes of a compressed member of an .npz, which is unpacked to memory
MOST_CHUNK = 1 << 28  # bytes of a chunk, strip or tile, which is read as a whole
_LOCAL_HEADER = 30  # bytes of a member's header in a zip archive, before its name

Box = tuple[slice, ...]


class DiskArray(ABC):
    """An array of which boxes are read.

    Args:
        path: the file or folder
        member: name of the array in it, where there are several
        shape, dtype: as numpy's
        axes: a letter for each axis, where the file says
        is_colour: whether channels are red, green and blue
        has_alpha: whether the last channel is transparency
    """

    def __init__(
        self,
        path: Path,
        member: str | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        axes: str | None = None,
        is_colour: bool = False,
        has_alpha: bool = False,
    ) -> None:
        self.path, self.member = path, member
        self.shape, self.dtype, self.axes = shape, dtype, axes
        self.is_colour, self.has_alpha = is_colour, has_alpha

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.path.name} {self.member}" if self.member else self.path.name

    def __reduce__(self) -> tuple[Any, ...]:
        """Open it anew in a process that is not forked."""
        return open_array, (self.path, self.member)

    @abstractmethod
    def read(self, box: Box) -> np.ndarray:
        """Read a box, a slice for each axis.

        Raises:
            Exception: of a damaged file
        """


class RawArray(DiskArray):
    """An array that lies in a file as it does in memory, read by place: a file cut short crashes nothing.

    Args:
        path, member, axes: see `DiskArray`
        offset: bytes before the array
        shape, dtype: of the array, in C order
    """

    def __init__(
        self,
        path: Path,
        member: str | None,
        offset: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        axes: str | None = None,
    ) -> None:
        super().__init__(path, member, shape, dtype, axes)
        self.offset = offset
        missing = offset + math.prod(shape) * dtype.itemsize - path.stat().st_size
        if missing > 0:
            raise UserError(f"{path} is cut short: {missing} bytes of its array {shape} are missing")
        self.file: BinaryIO = path.open("rb", buffering=0)

    def read(self, box: Box) -> np.ndarray:
        sizes = tuple(each.stop - each.start for each in box)
        whole = len(box)  # axes from here on are taken whole, so that the axis before is one stretch
        while whole and sizes[whole - 1] == self.shape[whole - 1]:
            whole -= 1
        outer = max(whole - 1, 0)
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(box))]
        length = math.prod(sizes[outer:]) * self.dtype.itemsize
        found = bytearray()
        for index in np.ndindex(sizes[:outer]):
            first = sum(
                (each.start + at) * stride for each, at, stride in zip(box, index, strides, strict=False)
            )
            first += sum(
                each.start * stride for each, stride in zip(box[outer:], strides[outer:], strict=True)
            )
            data = os.pread(self.file.fileno(), length, self.offset + first * self.dtype.itemsize)
            if len(data) < length:
                raise ValueError("has become shorter since it was opened")
            found += data
        return np.frombuffer(found, self.dtype).reshape(sizes)


class MemoryArray(DiskArray):
    """An array that was unpacked to memory, which processes that are forked share."""

    def __init__(self, path: Path, member: str | None, array: np.ndarray) -> None:
        super().__init__(path, member, array.shape, array.dtype)
        self.array = array

    def read(self, box: Box) -> np.ndarray:
        return self.array[box]


class ChunkedArray(DiskArray):
    """An array that is opened anew in each process and read by chunks.

    Args:
        path, member: see `DiskArray`
        reopen: opens it by zarr
        known: further arguments of `DiskArray`
    """

    def __init__(self, path: Path, member: str | None, reopen: Callable[[], Any], **known: Any) -> None:
        opened = reopen()
        super().__init__(path, member, opened.shape, opened.dtype, **known)
        self.reopen, self.opened = reopen, (os.getpid(), opened)
        chunk = math.prod(opened.chunks) * opened.dtype.itemsize
        if chunk > MOST_CHUNK:
            raise UserError(
                f"{path} lies in pieces of {opened.chunks}, {chunk >> 20} MB, each read as a whole: "
                f"write it in tiles, as vips tiffsave {path.name} tiled.tif --tile --bigtiff does"
            )

    def read(self, box: Box) -> np.ndarray:
        if self.opened[0] != os.getpid():
            self.opened = (os.getpid(), self.reopen())
        return np.asarray(self.opened[1][box])


def is_array(path: Path) -> bool:
    """Tell by its first bytes whether a file, or by its files whether a folder, is an array."""
    try:
        if path.is_dir():
            return any((path / name).is_file() for name in ZARR_FILES)
        with path.open("rb") as file:
            start = file.read(6)
    except (OSError, ValueError):  # no such file, a name that cannot be one
        return False
    return start.startswith((NPY, *TIFF_STARTS)) or (
        start.startswith(ZIP) and path.name.lower().endswith(".npz")
    )


def open_array(path: Path, member: str | None = None) -> DiskArray:
    """Open an array for reading.

    Args:
        path: .npy, .npz or TIFF file, or folder of zarr
        member: name of the array in an .npz or a group of zarr, where there are several

    Raises:
        UserError: it is damaged, is no array of numbers, or a package is missing
    """
    try:
        if path.is_dir():
            return _open_zarr(path, member)
        with path.open("rb") as file:
            start = file.read(6)
            if start == NPY:
                file.seek(0)
                shape, dtype, axes = _read_npy_header(file)
                return RawArray(path, None, file.tell(), shape, dtype, axes)
        if start.startswith(ZIP):
            return _open_npz(path, member)
        return _open_tiff(path)
    except UserError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise UserError(f"{path} cannot be read ({' '.join(str(error).split()) or 'damaged'})") from None


def list_members(path: Path) -> list[str]:
    """Return the names of the arrays in an .npz.

    Raises:
        UserError: it is damaged
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error})") from None


def _read_npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any], str | None]:
    """Return shape, type and axes; an array in Fortran's order is one in C's order with its axes reversed."""
    shape, is_fortran, dtype = read_npy_header(file)
    if dtype.kind not in "buif":
        raise ValueError(f"holds {dtype}, and images are of numbers")
    if not is_fortran or len(shape) < 2:
        return shape, dtype, None
    axes = {2: "yx", 3: "yxc", 4: "nyxc"}.get(len(shape))
    return shape[::-1], dtype, axes and axes[::-1]


def _open_npz(path: Path, member: str | None) -> DiskArray:
    """Open an array of an .npz: where it lies, or unpacked to memory where it is compressed."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        name = f"{member}.npy" if member else names[0]
        if name not in names or (member is None and len(names) > 1):
            known = ", ".join(each.removesuffix(".npy") for each in names)
            raise UserError(f"{path}: which of the arrays {known} holds the images? Add :images=NAME")
        info = archive.getinfo(name)
        if info.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                file.seek(info.header_offset)
                lengths = struct.unpack("<HH", file.read(_LOCAL_HEADER)[26:])
                file.seek(sum(lengths), os.SEEK_CUR)
                shape, dtype, axes = _read_npy_header(file)
                return RawArray(path, member, file.tell(), shape, dtype, axes)
        if info.file_size > MOST_UNPACKED:
            raise UserError(
                f"{path}: {name} is compressed, and {info.file_size >> 20} MB are too many for memory: "
                f"unzip {path} {name}; then give {name}"
            )
        with archive.open(info) as packed:
            return MemoryArray(path, member, np.lib.format.read_array(packed, allow_pickle=False))


def _open_zarr(path: Path, member: str | None) -> DiskArray:
    """Open an array of zarr, version 2 or 3, or the finest level of an OME-Zarr picture."""
    try:
        import zarr
    except ImportError:
        raise UserError(f"{path}: zarr needs zarr: pip install zarr") from None
    found: Any = zarr.open(path, mode="r")
    axes = None
    if isinstance(found, zarr.Group):
        known: Any = found.attrs.asdict()
        scales = (known.get("ome") or known).get("multiscales")
        names = sorted(name for name, _ in found.arrays())
        if member is None and scales:
            member = scales[0]["datasets"][0]["path"]
            named = scales[0].get("axes") or "tczyx"
            axes = "".join(axis if isinstance(axis, str) else axis["name"] for axis in named)
        elif member is None and len(names) == 1:
            member = names[0]
        if member is None:
            raise UserError(f"{path}: which of the arrays {', '.join(names)}? Add :images=NAME")

    def reopen() -> Any:
        opened: Any = zarr.open(path, mode="r")
        return opened if isinstance(opened, zarr.Array) else opened[member]

    return ChunkedArray(path, member, reopen, axes=axes)


def _open_tiff(path: Path) -> DiskArray:
    """Open the first series of a TIFF at its finest level."""
    try:
        import tifffile
        import zarr
    except ImportError:
        raise UserError(f"{path}: TIFF by tiles needs two packages: pip install tifffile zarr") from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it reports what it then raises
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        page: Any = series.keyframe
        axes = series.axes.lower()
        axes = axes.replace("c", "n").replace("s", "c") if "s" in axes else axes
        names = ("RGB", "YCBCR")
        is_colour = page.photometric.name in names and "s" in series.axes.lower()
        has_alpha = is_colour and page.extrasamples[-1:] in ((1,), (2,))
        if len(page.dataoffsets) < math.prod(page.chunked):
            raise UserError(
                f"{path} is damaged: holds {len(page.dataoffsets)} of {math.prod(page.chunked)} tiles"
            )

    def reopen() -> Any:
        return zarr.open(tifffile.TiffFile(path).series[0].aszarr(level=0), mode="r")

    return ChunkedArray(path, None, reopen, axes=axes, is_colour=is_colour, has_alpha=has_alpha)
