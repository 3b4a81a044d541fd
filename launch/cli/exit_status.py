"""From a command to an exit status: what a person can mend becomes one line."""

import errno
import logging
import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

from fcmae.core.errors import UserError, explain
from fcmae.core.world import find_world

Command = Callable[[list[str]], int]  # from the options on its command line to an exit status
BROKEN_PIPE = 128 + signal.SIGPIPE  # nobody reads standard output
PLUGINS = "fcmae.plugins"  # the entry point by which packages name modules that register extensions


def exit_status(command: Command, argv: list[str]) -> int:
    """Run a command; return 0, 2 for what the user can mend, or 128 + N after signal N.

    What may be gone the next time is 1: a cluster starts such a job again, and gives up one that ended in 2.
    Warnings of the project go to standard error, each text once. Plugins are loaded before.
    """
    handler = logging.StreamHandler()
    handler.addFilter(Once())
    logging.basicConfig(level=logging.WARNING, format="fcmae: %(message)s", handlers=[handler])
    logging.getLogger("fcmae").setLevel(logging.INFO)
    try:
        load_plugins()
        return command(argv)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        readable = what_to_do(error)
        if readable is None:
            raise
        if readable.of_process or not isinstance(error, UserError) or talks():
            print(f"fcmae: error: {readable}", file=sys.stderr)
        return readable.exit_status


def what_to_do(error: Exception) -> UserError | None:
    """Return an error as a person can read it, with its remedy; None of one that only a programmer can."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError):
        return explain(error)
    if isinstance(error, MemoryError):
        return explain(OSError(errno.ENOMEM, "Cannot allocate memory"))
    if type(error).__name__ == "OutOfMemoryError":  # of torch, which may not be loaded
        return UserError(
            "the GPU's memory ran out: lower batch_size, or raise optim.accumulation_steps, or set "
            "network.grad_checkpointing; the same command goes on where its settings allow it"
        )
    return None


def talks() -> bool:
    """Return whether this process says what all of its machine see before they join: the first does."""
    try:
        return find_world().local_rank == 0
    except UserError:  # the variables contradict each other
        return True


def load_plugins() -> None:
    """Import the modules that installed packages name as plugins, which register layouts, data and so on.

    Raises:
        UserError: one of them is not there
    """
    for plugin in entry_points(group=PLUGINS):
        try:
            plugin.load()
        except ImportError as error:
            raise UserError(
                f"plugin {plugin.name!r} ({plugin.value}) cannot be imported: {error}; mend or uninstall it"
            ) from error


class Once(logging.Filter):
    """A filter that passes each text once: what is submitted is checked, and again when acquired."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record's text is new."""
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new
