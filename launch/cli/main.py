"""The `fcmae` command: finds the stage that is asked for, and turns what a person can mend into one line."""

import errno
import logging
import sys
from collections.abc import Callable

from fcmae import __version__
from fcmae.core.errors import UserError
from fcmae.launch.cli import finetune as second_stage
from fcmae.launch.cli import pretrain as first_stage
from fcmae.launch.cli.jobs import jobs_command
from fcmae.launch.cli.submit.command import submit_command

COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "pretrain": (first_stage.pretrain, "train an encoder on images without labels"),
    "reconstruct": (first_stage.reconstruct, "draw what a run makes of hidden patches"),
    "finetune": (second_stage.finetune, "train on labels, from an encoder or from scratch"),
    "evaluate": (second_stage.evaluate, "measure a classifier on labelled images"),
    "probe": (second_stage.probe, "measure an encoder without training it"),
    "predict": (second_stage.predict, "classify a folder of images"),
    "embed": (second_stage.embed, "write the features of a folder of images"),
    "export": (second_stage.export, "convert weights to onnx, timm, transformers or torch"),
    "submit": (submit_command, "queue a stage, a sweep or a pipeline on a cluster, or on this machine"),
    "jobs": (jobs_command, "show or cancel what was submitted"),
    "info": (first_stage.info, "list the sizes: parameters, multiply-adds, activations"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit status (0, 2 for what the user can mend, 128 + N after signal N)."""
    handler = logging.StreamHandler()
    handler.addFilter(Once())
    logging.basicConfig(level=logging.WARNING, format="fcmae: %(message)s", handlers=[handler])
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    name, rest = words[0], words[1:]
    try:
        if name not in COMMANDS:
            raise UserError(f"unknown command {name!r}: choose one of {', '.join(COMMANDS)}")
        return COMMANDS[name][0](rest)
    except UserError as error:
        print(f"fcmae: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"fcmae: error: {error.strerror}: make room, and repeat the command", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class Once(logging.Filter):
    """Lets each message through once: what is submitted is checked, and again when its folder is acquired."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record's text is new."""
        message = record.getMessage()
        new = message not in self.seen
        self.seen.add(message)
        return new


def usage() -> str:
    """The list of commands."""
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
