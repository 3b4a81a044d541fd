"""The `fcmae` command: find the command that is asked for, and import what it needs only then."""

import os
import select
import sys
from importlib import import_module
from typing import TextIO

from fcmae import __version__
from fcmae.core.errors import UserError
from fcmae.launch.cli.exit_status import BROKEN_PIPE, Command, exit_status

# By name: the module below this package whose `run` is the command, and what it does.
COMMANDS = {
    "pretrain": ("pretrain", "train an encoder on images without labels"),
    "replay": ("replay", "take the step of a run whose loss was not finite again: where it overflows"),
    "reconstruct": ("reconstruct", "draw what a run makes of hidden patches"),
    "finetune": ("finetune", "train on labels, from an encoder or from scratch"),
    "evaluate": ("evaluate", "measure a classifier on labelled images"),
    "probe": ("probe", "measure an encoder without training it"),
    "predict": ("predict", "classify a folder of images"),
    "embed": ("embed", "write the features of a folder of images"),
    "export": ("export", "convert weights to onnx, timm, transformers or torch"),
    "data": ("data.command", "look at images, pack them into archives, find broken ones"),
    "submit": ("submit.command", "queue a command, a sweep or a pipeline on a cluster, or on this machine"),
    "jobs": ("jobs", "show or cancel what was submitted"),
    "info": ("info", "list the sizes: parameters, multiply-adds, activations"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status (0, 2 for what the user can mend, 128 + N after signal N).

    Where nobody reads standard output any more, as behind `| head`, the command ends without a word.

    Args:
        argv: the command's name and its options, by default those of this process
    """
    try:
        try:
            return dispatch(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if is_read(sys.stdout):
            raise  # another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
        return BROKEN_PIPE


def is_read(stream: TextIO) -> bool:
    """Return whether there is anybody at the other end of a stream's pipe."""
    other_end = select.poll()
    other_end.register(stream, 0)  # errors are told unasked
    return not other_end.poll(0)


def dispatch(argv: list[str]) -> int:
    """Print help or the version, or run a command; return the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    return exit_status(find_and_run, argv)


def find_and_run(argv: list[str]) -> int:
    """Run the command that the first word names; return its exit status.

    Raises:
        UserError: there is no such command, or anything that the command refuses
    """
    name, *options = argv
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}: choose one of {', '.join(COMMANDS)}")
    run: Command = import_module(f"fcmae.launch.cli.{COMMANDS[name][0]}").run
    return run(options)


def usage() -> str:
    """Return the list of commands."""
    lines = [f"  fcmae {name:<12} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "Pre-train a ConvNeXt on images without labels, and use it.",
            "",
            *lines,
            "",
            "fcmae COMMAND --help lists a command's options, fcmae --version says which version this is.",
            "fcmae pretrain alone trains on built-in digits.",
        ]
    )
