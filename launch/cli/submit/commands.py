"""The commands that a job can run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fcmae.core.settings import Parser
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli import evaluate, finetune, pretrain, probe
from fcmae.launch.cli.exit_status import Command


@dataclass(frozen=True)
class JobCommand:
    """A command that a job can run.

    Args:
        run: from its options to an exit status
        make_parser: makes the parser of its options
        read: from its options to its settings, checked
        find_run: checks the settings of a command that trains, and returns the folder of its run, as its own
            where the flag says so; a command that measures has no run
    """

    run: Command
    make_parser: Callable[[], Parser]
    read: Callable[[list[str]], Any]
    find_run: Callable[[Any, bool], RunFolder] | None = None

    @property
    def trains(self) -> bool:
        """Whether it makes a run, which goes on where it was stopped."""
        return self.find_run is not None


JOB_COMMANDS = {
    "pretrain": JobCommand(pretrain.run, pretrain.make_parser, pretrain.read, pretrain.find_run),
    "finetune": JobCommand(finetune.run, finetune.make_parser, finetune.read, finetune.find_run),
    "evaluate": JobCommand(evaluate.run, evaluate.make_parser, evaluate.read),
    "probe": JobCommand(probe.run, probe.make_parser, probe.read),
}
