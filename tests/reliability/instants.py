"""The instants at which a process changes a file of a folder: to count them, and to strike at one of them."""

import builtins
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

READS = {"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.chdir", "os.getxattr", "os.listxattr"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
NEVER = 10**9


class Kill:
    """The end of a process without a word, as by SIGKILL or a power cut."""

    reads = False  # whether it strikes where a file is opened to be read, too

    def strike(self, path: str) -> None:
        """Happen, while the process is at a file."""
        os.kill(os.getpid(), signal.SIGKILL)


class DiskError(Kill):
    """An error of the system at this call and all later ones, as of a disk that is gone."""

    reads = True

    def __init__(self, number: int) -> None:
        self.number = number

    def strike(self, path: str) -> None:
        raise OSError(self.number, os.strerror(self.number), path)


class Deletion(Kill):
    """The whole folder deleted, while the process goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done = folder, False

    def strike(self, path: str) -> None:
        if not self.done:
            self.done = True
            shutil.rmtree(self.folder, ignore_errors=True)


class Instants:
    """Counts the instants at which this process is at a file below a folder; strikes from one of them on.

    Args:
        folder: where to look
        strike_at: number of the instant to strike at, from 1
        listed: file that the instants are listed in, one a line
        fault: what happens then
    """

    def __init__(self, folder: Path, strike_at: int, listed: Path, fault: Kill) -> None:
        self.folder, self.strike_at, self.count, self.fault = f"{folder}/", strike_at, 0, fault
        self.listed = os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def watch(self) -> None:
        """Begin, for the rest of the life of this process."""
        real_open = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            result = real_open(file, mode, *args, **options)
            writes = bool(set(mode) & set("wax+"))
            return TornFile(result, self, file) if writes and self.is_inside(file) else result

        real_sync = os.fsync

        def sync(fd: Any) -> None:
            self.meet("fsync", os.readlink(f"/proc/self/fd/{fd}"))
            real_sync(fd)

        io.open = builtins.open = opened
        os.fsync = sync
        sys.addaudithook(self.audit)

    def is_inside(self, path: Any) -> bool:
        """Return whether a path, if it is one, is below the folder."""
        return isinstance(path, str | Path) and str(path).startswith(self.folder)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        """Meet an event that changes something."""
        opens = event == "open" and (self.fault.reads or args[2] & WRITING)
        if (opens or (event.startswith("os.") and event not in READS)) and any(map(self.is_inside, args)):
            self.meet(event, args[0])

    def meet(self, event: str, path: Any, before: Callable[[], Any] = lambda: None) -> None:
        """Count an instant; from the one to strike at on, do what comes before, and strike."""
        if not self.is_inside(path):
            return
        self.count += 1
        if self.count <= self.strike_at:
            os.write(self.listed, f"{event} {str(path).removeprefix(self.folder)}\n".encode())
        if self.count >= self.strike_at:
            before()
            self.fault.strike(str(path))


class TornFile:
    """An open file each of whose writes is an instant; the fatal one is half written."""

    def __init__(self, file: Any, instants: Instants, path: Any) -> None:
        self._file, self._instants, self._path = file, instants, path

    def write(self, data: Any) -> Any:
        """Write, or be struck in the middle of it."""
        self._instants.meet("write", self._path, lambda: self._tear(data))
        return self._file.write(data)

    def _tear(self, data: Any) -> None:
        """Write half of something."""
        self._file.write(data[: len(data) // 2])
        self._file.flush()

    def writelines(self, lines: Any) -> None:
        """Write one after another."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "TornFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)
