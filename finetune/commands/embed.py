"""Images without labels to features, as npz or Parquet.

Shapes: N images, D features of an image.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from fcmae.core.device import pick_device
from fcmae.core.errors import UserError
from fcmae.core.files import AnyPath, write_atomically
from fcmae.data.sources import Spec
from fcmae.finetune.outputs import list_broken, open_all, outputs
from fcmae.finetune.trained import open_network

PIECE = 1 << 20  # bytes at a time
ROW_GROUP = 16384  # rows of a Parquet file that are written together


def embed(
    weights: AnyPath,
    images: Spec,
    out: AnyPath,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    precision: str = "float32",
    device: str = "auto",
) -> tuple[int, int]:
    """Write the features of each image of a folder, with its name.

    Features are the last stage's, averaged over positions and normalised: what the head is given.

    Args:
        weights: run folder or file, a bare encoder's too
        images: what --data may say, folders of any tree among it; images of any size
        out: file to write, .npz or .parquet, see `WRITERS`
        batch_size: images of one batch
        workers: processes that read, by default chosen for the device
        precision: float32, bf16 or fp16
        device: see `pick_device`

    Returns:
        images that were read, and broken ones, which are listed in <out>.broken.txt

    Raises:
        UserError: weights or images that cannot be read, or a file that cannot be written
    """
    weights, out = Path(weights), Path(out)
    network = open_network(weights, pick_device(device), head=False)
    source, broken = open_all(images, network), list_broken(out)
    count = 0
    try:
        with write_atomically(out) as file, WRITERS[out.suffix](file, out.parent) as writer:
            for names, values in outputs(network, source, broken, batch_size, workers, precision):
                writer.add(names, values.cpu().numpy())
                count += len(names)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    return count, len(broken)


class NpzWriter:
    """The arrays `features`, float32 (N, D), and `files`, the names (N,), in an .npz file.

    Both grow in files of their own until their sizes are known: memory holds a batch, however many there are.

    Args:
        file: open for writing
        folder: where there is room for as much again
    """

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        self.file, self.folder = file, folder
        self.count = self.width = self.longest = 0

    def __enter__(self) -> "NpzWriter":
        self.stack = ExitStack()
        self.features = self.stack.enter_context(tempfile.TemporaryFile(dir=self.folder))
        self.names = self.stack.enter_context(tempfile.TemporaryFile(dir=self.folder))
        return self

    def add(self, names: list[str], features: np.ndarray) -> None:
        """Add images: their names and float32 (images, D)."""
        self.count, self.width = self.count + len(names), features.shape[1]
        self.longest = max([self.longest, *map(len, names)])
        self.features.write(np.ascontiguousarray(features).data)
        self.names.write(b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in names))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put both together, if all went well."""
        with self.stack:
            if kind is not None:
                return
            with zipfile.ZipFile(self.file, "w") as archive:
                with _open_array(archive, "features", (self.count, self.width), np.dtype("<f4")) as array:
                    self.features.seek(0)
                    shutil.copyfileobj(self.features, array, PIECE)
                text = np.dtype(f"<U{max(1, self.longest)}")
                with _open_array(archive, "files", (self.count,), text) as array:
                    for names in self._read_names():
                        array.write(np.array(names, text).tobytes())

    def _read_names(self) -> Iterator[list[str]]:
        """Yield the names that were added, some at a time."""
        self.names.seek(0)
        rest = b""
        while piece := self.names.read(PIECE):
            *names, rest = (rest + piece).split(b"\0")
            yield [name.decode("utf-8", "surrogateescape") for name in names]


@contextmanager
def _open_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[IO[bytes]]:
    """Begin an array of an .npz file, whose values are written next."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as array:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(array, header)
        yield array


class ParquetWriter:
    """A table of the columns `files` and `features`, in which an image's features are a list.

    What is not UTF-8 in a name is a question mark.

    Args:
        file: open for writing
        folder: not used
    """

    def __init__(self, file: BinaryIO, folder: Path) -> None:
        self.file = file
        self.writer: Any = None
        self.rows: list[Any] = []

    def __enter__(self) -> "ParquetWriter":
        return self

    def add(self, names: list[str], features: np.ndarray) -> None:
        """Add images: their names and float32 (images, D)."""
        import pyarrow

        lists = pyarrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
        files = [name.encode("utf-8", "replace").decode() for name in names]
        self.rows.append(pyarrow.table({"files": files, "features": lists}))
        if sum(map(len, self.rows)) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        """Write the rows that are held, as one row group."""
        import pyarrow
        from pyarrow import parquet

        rows, self.rows = pyarrow.concat_tables(self.rows), []
        self.writer = self.writer or parquet.ParquetWriter(self.file, rows.schema)
        self.writer.write_table(rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.rows:
            self._flush()
        if self.writer is not None:
            self.writer.close()


WRITERS: dict[str, type[NpzWriter | ParquetWriter]] = {".npz": NpzWriter, ".parquet": ParquetWriter}
