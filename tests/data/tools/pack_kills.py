"""A script: packing that is killed at every instant, and goes on, writes the bytes of one that is not."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fcmae.data.sources import SourceOptions
from fcmae.data.tools import journal, pack
from fcmae.data.tools.encode import Encoder
from fcmae.data.tools.pieces import open_pieces

KILLED = 9
WATCHED = [(pack._Shard, "_write"), (journal.Journal, "_write"), (os, "fsync"), (os, "replace")]


def pack_all(source: str, out: Path) -> None:
    pieces = open_pieces(source, SourceOptions(channels=3, size=16))
    pack.pack(pieces, out, Encoder(16, 90, "jpeg"), 4000, 0, "Packing")


def kill_at(instant: int) -> None:
    """End the process before the call of that number, of those that change a file."""
    calls = 0

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > instant:
                os._exit(KILLED)
            return function(*arguments)

        return counted

    for owner, name in WATCHED:
        setattr(owner, name, watched(getattr(owner, name)))


def in_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own; return its status."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files but the list, in which the time of change of each shard stands."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "index.npz"}


def main(source: str, folder: Path, step: int) -> None:
    in_child(lambda: pack_all(source, folder / "whole"))
    expected = contents(folder / "whole")
    assert sum(name.endswith(".tar") for name in expected) > 2
    instant, status = 0, KILLED
    while status == KILLED:
        out = folder / f"{instant}"

        def killed(out: Path = out, instant: int = instant) -> None:
            kill_at(instant)
            pack_all(source, out)

        status = in_child(killed)
        assert status in (0, KILLED), (instant, status)
        assert in_child(lambda out=out: pack_all(source, out)) == 0, instant  # type: ignore[misc]
        assert contents(out) == expected, instant
        instant += step
    print(f"{instant} instants")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
