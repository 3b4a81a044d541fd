"""A request to stop, noticed between two steps instead of in the middle of one."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from fcmae.core.distributed import max_over_processes

# By weight: the last is a cluster's warning that a job is about to be preempted or to reach its time limit.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class StopSignals:
    """A context in which the first SIGTERM, SIGUSR2 or Ctrl-C only sets `received`.

    After it, a Ctrl-C acts as it did before: a person will wait no longer. A cluster sends several signals:
    the weightiest is remembered. Former handlers are back on leaving the context. Main thread only.
    """

    def __init__(self) -> None:
        self._weight = 0
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    @property
    def received(self) -> int | None:
        """The weightiest signal that this process received, if any."""
        return STOP_SIGNALS[self._weight - 1] if self._weight else None

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._receive) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def agreed(self, flag: bool) -> tuple[int | None, bool]:
        """Return the weightiest signal that any process of the run received, and whether any raised the flag.

        All processes call this after every step, and so stop, and do what the flag asks for, at the same one.
        """
        weight, raised = max_over_processes(self._weight, int(flag))
        return STOP_SIGNALS[weight - 1] if weight else None, raised > 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal, and let the next Ctrl-C act as it did before."""
        self._weight = max(self._weight, 1 + STOP_SIGNALS.index(signal.Signals(number)))
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])

    def _restore(self) -> None:
        """Bring the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
