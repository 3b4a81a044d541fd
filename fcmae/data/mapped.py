"""Arrays of an .npz file, mapped into memory: read when used, and once for all processes of a machine."""

import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

LOCAL_HEADER = 30  # bytes of what stands before a file in a zip archive, without its name and extra fields
NOT_ARRAYS = (ValueError, KeyError, EOFError, OverflowError, zipfile.BadZipFile, NotImplementedError)


class MappedArrays(Mapping[str, np.ndarray]):
    """The arrays of a file that `numpy.savez` wrote, by name.

    Args:
        path: the file

    Raises:
        OSError: the file cannot be read
        ValueError, BadZipFile and the others of NOT_ARRAYS: it is no such file, or a damaged one
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __getitem__(self, name: str) -> np.ndarray:
        """Map one array, for reading only."""
        info = self.members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER)
            if len(header) < LOCAL_HEADER:
                raise EOFError(f"{name} is cut off")
            file.seek(sum(struct.unpack_from("<HH", header, LOCAL_HEADER - 4)), 1)
            try:
                version = npy.read_magic(file)
                read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read_header(file)
            except Exception as error:  # a damaged header raises nearly anything
                raise ValueError(f"{name} is damaged ({error})") from None
            if dtype.hasobject:
                raise ValueError(f"{name} holds objects")
            if 0 in shape:
                return np.empty(shape, dtype)
            return np.asarray(np.memmap(self.path, dtype, "r", file.tell(), shape))
