"""A request to stop, noticed between two steps instead of in the middle of one."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from fcmae.core.distributed import current_world, max_over_processes

# By weight: the first is a terminal that is gone, the last a cluster's warning that a job is about to be
# preempted or to reach its time limit.
STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class StopSignals:
    """A context in which the first SIGHUP, SIGTERM, SIGUSR2 or Ctrl-C only sets `received`.

    After it, a Ctrl-C acts as it did before: a person will wait no longer. A cluster sends several signals:
    the weightiest is remembered. A SIGHUP that is ignored, as nohup has it, stays so. Former handlers are
    back on leaving the context. Main thread only.

    Args:
        agree_seconds: how long several processes go on before they ask each other again
    """

    def __init__(self, agree_seconds: float = 0.0) -> None:
        self._weight = 0
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._terminals: list[int] = []
        self._agree_seconds = agree_seconds
        self._agreed_at = time.monotonic()
        self._period, self._calls = 1, 0  # between two agreements, and since the last

    @property
    def received(self) -> int | None:
        """The weightiest signal that this process received, if any."""
        return STOP_SIGNALS[self._weight - 1] if self._weight else None

    def __enter__(self) -> "StopSignals":
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        taken = [number for number in STOP_SIGNALS if not is_ignored_hangup(number)]
        self._previous = {number: signal.signal(number, self._receive) for number in taken}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def agreed(self, flag: bool, at_once: bool = False) -> tuple[int | None, bool]:
        """Return the weightiest signal that any process of the run received, and whether any raised the flag.

        All processes call this after every step, and so stop, and do what the flag asks for, at the same one.
        They ask each other after as many calls as take `agree_seconds` where the slowest of them is, at most
        twice as many as the last time; the calls between return nothing.

        Args:
            flag: of this process; has to stay raised until it is returned
            at_once: ask now, the same in every process: what comes next takes long
        """
        self._calls += 1
        if current_world().size > 1 and self._calls < self._period and not at_once:
            return None, False
        now = time.monotonic()
        microseconds = int(1e6 * (now - self._agreed_at) / self._calls)
        weight, raised, slowest = max_over_processes(self._weight, int(flag), microseconds)
        wanted = int(1e6 * self._agree_seconds / max(slowest, 1))
        self._period, self._calls = max(1, min(2 * self._period, wanted)), 0
        self._agreed_at = time.monotonic()
        return STOP_SIGNALS[weight - 1] if weight else None, raised > 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal, and let the next Ctrl-C act as it did before."""
        if number == signal.SIGHUP:
            self._leave_terminal()
        self._weight = max(self._weight, 1 + STOP_SIGNALS.index(signal.Signals(number)))
        signal.signal(signal.SIGINT, self._previous[signal.SIGINT])

    def _leave_terminal(self) -> None:
        """Send to nowhere what goes to a terminal: it is gone, and every write to it an error."""
        with open(os.devnull, "w") as nowhere:
            for stream in self._terminals:
                os.dup2(nowhere.fileno(), stream)

    def _restore(self) -> None:
        """Bring the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def is_ignored_hangup(number: int) -> bool:
    """Return whether a signal is SIGHUP, and ignored, as nohup leaves it."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
