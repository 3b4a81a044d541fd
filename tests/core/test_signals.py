"""The first signal asks to stop, the second one acts as it would have."""

import os
import pty
import signal
import time
from collections.abc import Iterator

import pytest

from fcmae.core.signals import StopSignals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_first_signal_only_sets_the_flag(number: signal.Signals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have these tests ignore it
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == number


def test_second_signal_acts_as_usual() -> None:
    # A shell starts background commands with Ctrl-C ignored: here it is to act as it does in the foreground.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGTERM


def test_handlers_come_back() -> None:
    def handler(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, handler)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) is not handler
    assert signal.getsignal(signal.SIGTERM) is handler


def test_weightiest_signal_is_the_one_that_counts() -> None:
    with StopSignals() as stop:
        for number, expected in (
            (signal.SIGTERM, signal.SIGTERM),
            (signal.SIGUSR2, signal.SIGUSR2),
            (signal.SIGTERM, signal.SIGUSR2),
        ):
            signal.raise_signal(number)
            assert stop.agreed(False) == (expected, False)
        assert stop.agreed(True) == (signal.SIGUSR2, True)


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_terminal_that_is_gone_is_written_to_no_more() -> None:
    """A process on a terminal of its own, which is closed: what it says after that is no error."""
    child, terminal = pty.fork()
    if not child:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        status = 1
        try:
            with StopSignals() as stop:
                os.write(1, b"ready")
                while stop.received is None:
                    time.sleep(0.01)
                os.write(1, b"saved")
                status = 0
        finally:
            os._exit(status)
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
