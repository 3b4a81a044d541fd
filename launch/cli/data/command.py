"""`fcmae data`: find the command that is asked for."""

from importlib import import_module

from fcmae.core.errors import UserError
from fcmae.launch.cli.exit_status import Command

# By name: the module below this package whose `run` is the command, and what it does.
COMMANDS = {
    "inspect": "say what images there are: sizes, kinds, classes, broken ones, duplicates, a contact sheet",
    "pack": "write any images to shards of tar, smaller where wanted",
    "verify": "decode all images, check packed shards, list what is broken",
}


def run(argv: list[str]) -> int:
    """Run one of the commands; return its exit status.

    Raises:
        UserError: there is no such command, or anything that the command refuses
    """
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  fcmae data {name:<8} {summary}" for name, summary in COMMANDS.items()]
        print("\n".join([*lines, "", "fcmae data COMMAND --help lists a command's options."]))
        return 0
    if argv[0] not in COMMANDS:
        raise UserError(f"unknown command {argv[0]!r}: fcmae data knows {', '.join(COMMANDS)}")
    command: Command = import_module(f"fcmae.launch.cli.data.{argv[0]}").run
    return command(argv[1:])
