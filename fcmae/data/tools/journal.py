"""What `fcmae data pack` has finished: a line for each shard, which survives whatever ends it."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from fcmae.core.errors import UserError

JOURNAL = "pack.jsonl"


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    Args:
        file: its name
        piece: the piece of the source that it holds a part of
        first, end: places of its images in the piece's order, broken ones among them
        images: how many it holds
        bytes: its size
        sha256: of its bytes
        broken: name and reason of each image that could not be read
    """

    file: str
    piece: str
    first: int
    end: int
    images: int
    bytes: int
    sha256: str
    broken: list[tuple[str, str]]


class Journal:
    """The finished shards of a folder, of which one process at a time may write more.

    Args:
        folder: made where it is missing
        settings: of the packing, which have to be those of the shards that are there
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.shards: list[Shard] = []
        self._file: BinaryIO

    def __enter__(self) -> "Journal":
        """Open the folder, and read what is finished.

        Raises:
            UserError: it holds something else, was packed with other settings, or is being packed
        """
        path = self.folder / JOURNAL
        if not path.exists():
            if self.folder.exists() and (not self.folder.is_dir() or os.listdir(self.folder)):
                raise UserError(f"{self.folder} is not empty and holds nothing packed: choose a new folder")
            self.folder.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(f"{self.folder} is being packed by another process: wait, or end it") from None
        except OSError:  # a file system without locks
            pass
        found, self.shards, size = read_journal(path)
        self._file.truncate(size)  # without the line that a killed process was writing
        if not found:
            self._write({"settings": self.settings})
        elif found != self.settings:
            self._file.close()
            self._refuse(found)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, shard: Shard) -> None:
        """Note a shard that is safe on disk."""
        self._write(asdict(shard))
        self.shards.append(shard)

    def _write(self, record: dict[str, Any]) -> None:
        """Write a line, safely."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _refuse(self, found: dict[str, Any]) -> None:
        """Refuse to go on with other settings, of which the first is named."""
        name = next((each for each in self.settings if found.get(each) != self.settings[each]), "settings")
        if name in ("images", "digest"):
            raise UserError(f"{self.folder} was packed from other images: choose a new folder, or delete it")
        raise UserError(
            f"{self.folder} was packed with {name} {found.get(name)}, not {self.settings[name]}: give the "
            "same, choose a new folder, or delete it"
        )


def read_journal(path: Path) -> tuple[dict[str, Any], list[Shard], int]:
    """Return the settings, the finished shards, and how many bytes of the file are whole lines.

    Raises:
        UserError: it is damaged
    """
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        first, *lines = [json.loads(line) for line in whole.splitlines()] or [{"settings": {}}]
        shards = [Shard(**line | {"broken": [tuple(each) for each in line["broken"]]}) for line in lines]
        return dict(first["settings"]), shards, len(whole)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): delete the folder, and pack again") from None
