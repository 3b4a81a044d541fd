"""Fine-tuning as a call: what `fcmae finetune` does, with the options as keyword arguments."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcmae.core.distributed import from_rank_zero, joined
from fcmae.core.settings import to_argv
from fcmae.data.sources.memory import held
from fcmae.engine.loggers import Callback
from fcmae.engine.results import Run
from fcmae.finetune import task
from fcmae.finetune.prepare import prepare
from fcmae.finetune.settings import read
from fcmae.finetune.trained import open_network
from fcmae.models.card import read_card


class FinetunedRun(Run):
    """A fine-tuning's folder."""

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        card = read_card(self.path)
        return list(card.class_names or ()) if card else []

    def classifier(self, device: str = "cpu") -> nn.Module:
        """Return the network of the best epoch, in evaluation mode: (B, C, H, W) to logits."""
        return open_network(self.path, torch.device(device)).model


def finetune(
    data: Any = "digits",
    *,
    config: str | Path | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> FinetunedRun:
    """Fine-tune as `fcmae finetune` does, in this process or in those of torchrun; return the run.

    The same call again goes on where the run was stopped; Ctrl-C, or a notebook's stop, saves and returns.

    Args:
        data: what --data takes, or labelled images in memory or a data set of PyTorch's
            (`fcmae.data.sources.memory`)
        config: recipe, a file or the name of a built-in one; by default as for the command
        callback: called in rank zero with each record of the log (`fcmae.engine.loggers`)
        **options: of the command, by name, those of a group as a dict: `epochs=20, augment={"mixup": 0.0}`; a
            run or its path as `init`

    Raises:
        UserError: what the command would refuse
    """
    recipe = [] if config is None else [f"--config={config}"]
    with held(data) as name:
        argv = [*recipe, *to_argv({"data": name, **options})]
        loggers = [] if callback is None else [partial(Callback, function=callback)]
        asked = read(argv)
        with joined(asked.device, asked.loop.timeout_minutes, asked.loop.start_minutes):
            settings, run = from_rank_zero(lambda: prepare(asked))
            return FinetunedRun(run.path, task.finetune(settings, run, loggers))
