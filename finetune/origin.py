"""The fine-tuning that weights come from: its folder, its settings, and whether data are its own."""

from pathlib import Path

from fcmae.core.settings import read_settings
from fcmae.data.index import load_lists
from fcmae.data.sources import Spec, find_opener
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig


def own_run(weights: Path) -> RunFolder | None:
    """Return the run that weights are the folder of, or a file in; None for weights of no fine-tuning."""
    weights = weights.absolute()
    for folder in (weights, weights.parent, weights.parent.parent):  # a checkpoint lies two folders down
        run = RunFolder(folder)
        if run.classifier.is_file() and run.config.is_file():
            return run
    return None


def own_config(run: RunFolder) -> FinetuneConfig:
    """Read the settings of a fine-tuning.

    Raises:
        UserError: its file of settings is damaged
    """
    return read_settings(FinetuneConfig, run.config)


def is_own_data(data: Spec | None, run: RunFolder | None) -> bool:
    """Tell whether data are what the run was trained on, so that only its validation part can be measured.

    Args:
        data: what --data says, by default the run's own
        run: that the weights come from, if any

    Raises:
        UserError: the run's settings or lists are damaged
    """
    if run is None or data is None:
        return run is not None
    lists = load_lists(run.train_images, run.val_images)
    return find_opener(own_config(run).data).is_same(find_opener(data), lists)
