"""The commands that a job can run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fcmae.core.settings import Parser
from fcmae.data.index import ImageIndex
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune import settings as of_finetuning
from fcmae.finetune.prepare import list_data as list_labelled
from fcmae.launch.cli import embed, evaluate, finetune, predict, pretrain, probe
from fcmae.launch.cli.exit_status import Command
from fcmae.pretraining import settings as of_pretraining
from fcmae.pretraining.prepare import list_data as list_unlabelled


@dataclass(frozen=True)
class JobCommand:
    """A command that a job can run.

    Args:
        run: from its options to an exit status
        make_parser: makes the parser of its options
        read: from its options to its settings, checked
        find_run: checks and resolves the settings of a command that trains, and returns them with the folder
            of its run, as its own where the flag says so; a command that measures has no run
        list_data: returns the lists of images of a run, from its resolved settings and its folder
        alone: whether it runs in one process only
        out: what a step of a pipeline writes into its folder, for a command with such an option
    """

    run: Command
    make_parser: Callable[[], Parser]
    read: Callable[[list[str]], Any]
    find_run: Callable[[Any, bool], tuple[Any, RunFolder]] | None = None
    list_data: Callable[[Any, RunFolder], list[ImageIndex]] | None = None
    alone: bool = False
    out: str | None = None

    @property
    def trains(self) -> bool:
        """Whether it makes a run, which goes on where it was stopped."""
        return self.find_run is not None


JOB_COMMANDS = {
    "pretrain": JobCommand(
        pretrain.run, of_pretraining.make_parser, of_pretraining.read, pretrain.find_run, list_unlabelled
    ),
    "finetune": JobCommand(
        finetune.run, of_finetuning.make_parser, of_finetuning.read, finetune.find_run, list_labelled
    ),
    "evaluate": JobCommand(evaluate.run, evaluate.make_parser, evaluate.read, out="report"),
    "probe": JobCommand(probe.run, probe.make_parser, probe.read),
    "predict": JobCommand(predict.run, predict.make_parser, predict.read, alone=True, out="results.csv"),
    "embed": JobCommand(embed.run, embed.make_parser, embed.read, alone=True, out="results.npz"),
}
