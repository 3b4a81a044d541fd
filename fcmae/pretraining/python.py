"""Pre-training as a call: what `fcmae pretrain` does, with the options as keyword arguments."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from fcmae.core.distributed import from_rank_zero, joined
from fcmae.core.settings import to_argv
from fcmae.data.sources.memory import held
from fcmae.engine.loggers import Callback
from fcmae.engine.results import Run
from fcmae.models.convnext import ConvNeXt
from fcmae.models.weights import create_model_from, load_weights
from fcmae.pretraining import task
from fcmae.pretraining.prepare import prepare
from fcmae.pretraining.settings import read


class PretrainedRun(Run):
    """A pre-training's folder."""

    def encoder(self) -> ConvNeXt:
        """Return the encoder with its weights, in evaluation mode: (B, C, H, W) to features."""
        return create_model_from(load_weights(self.path), num_classes=0).eval()

    def reconstructions(self) -> Image.Image:
        """Return the picture of a few images, what was seen of them, and what was made of it."""
        with Image.open(self.folder.reconstructions) as picture:
            return picture.copy()


def pretrain(
    data: Any = "digits",
    *,
    config: str | Path | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> PretrainedRun:
    """Pre-train as `fcmae pretrain` does, in this process or in those of torchrun; return the run.

    The same call again goes on where the run was stopped; Ctrl-C, or a notebook's stop, saves and returns.

    Args:
        data: what --data takes, or images in memory or a data set of PyTorch's (`fcmae.data.sources.memory`)
        config: recipe, a file or the name of a built-in one; by default as for the command
        callback: called in rank zero with each record of the log (`fcmae.engine.loggers`)
        **options: of the command, by name, those of a group as a dict: `epochs=100, optim={"lr": 1e-3}`

    Raises:
        UserError: what the command would refuse
    """
    recipe = [] if config is None else [f"--config={config}"]
    with held(data) as name:
        settings = read([*recipe, *to_argv({"data": name, **options})])
        loggers = [] if callback is None else [partial(Callback, function=callback)]
        with joined(settings.device, settings.loop.timeout_minutes, settings.loop.start_minutes):
            run = from_rank_zero(lambda: prepare(settings))
            return PretrainedRun(run.path, task.pretrain(settings, run, loggers))
