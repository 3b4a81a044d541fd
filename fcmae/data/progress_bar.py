"""What a person sees of work that takes long: a bar on a terminal, a line now and then in a file."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from fcmae.core.distributed import current_world

SECONDS_TO_FIRST_LINE, SECONDS_BETWEEN_LINES = 1.0, 30.0

Advance = Callable[[float], None]


@contextmanager
def progress(doing: str, total: float, unit: str, scale: float = 1.0) -> Iterator[Advance]:
    """Show how far work has come, on standard error and by rank zero alone, if it takes more than a second.

    Args:
        doing: what is done, as "Listing train.tar"
        total: of all the work, in units
        unit: what is counted, as "images" or "GB"
        scale: what one unit is, as 1e9 bytes of a GB

    Yields:
        a function that is told how much more has been done, in what `scale` is measured in
    """
    console = Console(stderr=True)
    if not current_world().is_rank_zero:
        yield lambda amount: None
        return
    if not console.is_terminal:
        with _lines(doing, total, unit, scale) as advance:
            yield advance
        return
    digits = 0 if scale == 1 else 1
    count = TextColumn(f"{{task.completed:,.{digits}f}} of {{task.total:,.{digits}f}} {unit}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(doing), total=total / scale)
        yield lambda amount: bar.advance(task, amount / scale)


@contextmanager
def _lines(doing: str, total: float, unit: str, scale: float) -> Iterator[Advance]:
    """Write a line after a second, and every half minute."""
    told, done = time.monotonic(), 0.0

    def shown(amount: float) -> str:
        return f"{amount / scale:,.{0 if scale == 1 else 1}f}"

    def tell(so_far: str) -> None:
        print(f"{doing}: {so_far} {unit}", file=sys.stderr, flush=True)

    def advance(amount: float) -> None:
        nonlocal done, told
        done += amount
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES and done < total:
            told = now
            tell(f"{shown(done)} of {shown(total)}")

    first = threading.Timer(SECONDS_TO_FIRST_LINE, lambda: tell(f"{shown(done)} of {shown(total)}"))
    first.daemon = True
    first.start()
    try:
        yield advance
    finally:
        first.cancel()
