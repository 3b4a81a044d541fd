"""From a command to an exit status: what a person can mend becomes one line."""

import errno
import logging
import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

from fcmae.core.distributed import find_world
from fcmae.core.errors import UserError

Command = Callable[[list[str]], int]  # from the options on its command line to an exit status
BROKEN_PIPE = 128 + signal.SIGPIPE  # nobody reads standard output
PLUGINS = "fcmae.plugins"  # the entry point by which packages name modules that register extensions


def exit_status(command: Command, argv: list[str]) -> int:
    """Run a command; return 0, 2 for what the user can mend, or 128 + N after signal N.

    What may be gone the next time is 1: a cluster starts such a job again, and gives up one that ended with 2.
    Warnings of the project go to standard error, each text once. Plugins are loaded before.
    """
    handler = logging.StreamHandler()
    handler.addFilter(Once())
    logging.basicConfig(level=logging.WARNING, format="fcmae: %(message)s", handlers=[handler])
    try:
        load_plugins()
        return command(argv)
    except UserError as error:
        if error.of_process or talks():
            print(f"fcmae: error: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"fcmae: error: {error.strerror}: make room, and repeat the command", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


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
