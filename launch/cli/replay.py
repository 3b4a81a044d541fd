"""`fcmae replay`: take the step of a run whose loss was not finite once more, and show where it overflows."""

import math
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fcmae.core.device import check_device
from fcmae.core.errors import UserError
from fcmae.core.settings import Parser, check_counts, read_settings
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig
from fcmae.pretraining.config import PretrainConfig

if TYPE_CHECKING:
    from fcmae.engine.replay import Magnitude, Replayed


def run(argv: list[str]) -> int:
    """Take the step again and print what it shows; return the exit status.

    Raises:
        UserError: no run, or one whose losses were all finite
    """
    options = make_parser().read(argv)
    check_counts({"--count": options.count})
    check_device(options.device)
    there = RunFolder(options.run)
    if not there.replay.is_dir():
        raise UserError(f"{options.run} keeps no step: it is no run, or its losses were all finite")
    from fcmae.engine.kept import SETTINGS, read_step  # imports torch

    step = read_step(there.replay)
    config = settings_of(there.replay / SETTINGS)
    optim = replace(
        config.optim, accumulation_steps=config.optim.accumulation_steps * step["processes"]
    )  # the parts of a batch that several processes had
    loop = replace(config.loop, loggers=(), compile=False)
    with tempfile.TemporaryDirectory() as name:
        here = RunFolder(name)
        for images in (there.images, there.train_images, there.val_images, there.statistics):
            if images.exists():
                shutil.copyfile(images, here.path / images.name)
        config = replace(config, optim=optim, loop=loop, device=options.device, out=name)
        show(take_again(config, here, there), options.count)
    return 0


def make_parser() -> Parser:
    """Return the parser of the command's options."""
    parser = Parser(
        "fcmae replay",
        "Take the step whose loss or gradient was not finite once more, from the checkpoint before it and "
        "with its own batch, and show the largest magnitudes of what the modules give.",
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--count", type=int, default=10, help="lines of each table")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser


def settings_of(path: Path) -> Any:
    """Return the settings of a pre-training or fine-tuning, whichever a file holds.

    Raises:
        UserError: it holds neither
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = PretrainConfig if "mask_ratio" in values else FinetuneConfig
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path} holds no settings ({error})") from None
    return read_settings(kind, path)


def take_again(config: Any, here: RunFolder, there: RunFolder) -> "Replayed":
    """Take the step again.

    Args:
        config: of the run
        here: a folder for what the step writes
        there: the folder of the run
    """
    from fcmae.engine.replay import replay
    from fcmae.finetune.task import FinetuneTask
    from fcmae.pretraining.task import PretrainTask

    kind = PretrainTask if isinstance(config, PretrainConfig) else FinetuneTask
    return replay(partial(kind, config, here), config, here, there.replay)


def show(replayed: "Replayed", count: int) -> None:
    """Print a step: its loss and norm, where it overflows first, and the largest magnitudes before that."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in replayed.values.items())
    print(f"step {replayed.step}: {values}")
    for what, magnitudes in (("activations", replayed.activations), ("gradients", replayed.gradients)):
        first = next((at for at, each in enumerate(magnitudes) if not math.isfinite(each.value)), None)
        if first is None:
            print(f"all {what} are finite; the largest:")
            chosen = sorted(magnitudes, key=lambda each: -each.value)[:count]
        else:
            print(f"the first {what} that are not finite, and those before them:")
            chosen = magnitudes[max(first - count // 2, 0) :][:count]
        print_table(chosen)


def print_table(magnitudes: "list[Magnitude]") -> None:
    """Print magnitudes, a line each."""
    width = max((len(each.name) for each in magnitudes), default=0)
    for each in magnitudes:
        print(f"  {each.name:<{width}}  {each.value:.4g}")
