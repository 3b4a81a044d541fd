"""What measuring and predicting look at before torch is imported."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fcmae.core.device import check_device
from fcmae.core.errors import UserError
from fcmae.core.settings import read_settings
from fcmae.data.classes import some
from fcmae.data.index import ImageIndex, load_lists
from fcmae.data.sources import find_opener
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.config import FinetuneConfig
from fcmae.models.card import read_card

ExportFormat = Literal["onnx", "timm", "transformers", "torch"]


def check_weights(weights: Path, device: str) -> None:
    """Refuse weights that are not there, or that no file of weights can be, and a device that is not there.

    Raises:
        UserError: see above, or a checkpoint whose run has not yet written how its images are prepared
    """
    check_device(device)
    folder = weights.absolute().parent
    run = RunFolder(folder.parent)
    if read_card(weights) is None and folder == run.checkpoints and run.config.is_file():
        raise UserError(
            f"{weights}: {run.path} has not yet written its weights, which say how images are "
            "prepared for this checkpoint: wait for its first epochs, or repeat its command if it has ended"
        )


def own_run(weights: Path) -> RunFolder | None:
    """The run of the fine-tuning that weights come from, as its folder or a file in it; none for others."""
    weights = weights.absolute()
    for folder in (weights, weights.parent, weights.parent.parent):  # a checkpoint lies two folders down
        run = RunFolder(folder)
        if run.classifier.is_file() and run.config.is_file():
            return run
    return None


def own_config(run: RunFolder) -> FinetuneConfig:
    """The settings of a fine-tuning.

    Raises:
        UserError: its file of settings is damaged
    """
    return read_settings(FinetuneConfig, run.config)


def is_own_data(data: str | None, run: RunFolder | None) -> bool:
    """Whether data to measure on is what the run was trained on, so that only its validation part will do.

    Raises:
        UserError: the run's settings or lists are damaged
    """
    if run is None or data is None:
        return run is not None
    lists = load_lists(run.train_images, run.val_images)
    return find_opener(own_config(run).data).is_same(find_opener(data), lists)


def check_labelled(data: str | None, weights: Path) -> None:
    """Refuse a folder that is no tree of classes, or has classes that the weights' head does not know.

    Args:
        data: what --data says; what is known by name is checked when it is opened
        weights: run folder or file

    Raises:
        UserError: there is nothing to measure on, or nothing that can be measured
    """
    run = own_run(weights)
    if data is None and run is None:
        raise UserError(f"{weights} belongs to no fine-tuning: say with --data what to measure on")
    if data is None or is_own_data(data, run):
        return
    card = read_card(weights)
    known = None if card is None else card.class_names
    check_classes(find_opener(data).val_classes(), known, data, weights)


def check_classes(classes: Sequence[str], known: Sequence[str] | None, data: str, weights: Path) -> None:
    """Refuse classes that the weights, where they name theirs, do not know.

    Raises:
        UserError: see above
    """
    unknown = sorted(set(classes) - set(known)) if known is not None else []
    if unknown:
        raise UserError(
            f"{weights} does not know {len(unknown)} of the {len(classes)} classes of {data} "
            f"({some(unknown)}); it knows {len(known or [])} ({some(list(known or []))}): measure on those"
        )


def check_images(images: Path) -> None:
    """Refuse a folder without images.

    Raises:
        UserError: see above
    """
    ImageIndex.scan(images).check_headers()


def check_features_file(out: Path) -> None:
    """Refuse a file for features that is neither npz nor Parquet, or Parquet where pyarrow is missing.

    Raises:
        UserError: see above
    """
    if out.suffix not in (".npz", ".parquet"):
        raise UserError(f"--out {out}: choose a name that ends in .npz or .parquet")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"--out {out}: Parquet needs pyarrow (pip install pyarrow), or choose .npz")


def check_export(format: ExportFormat, out: Path) -> None:
    """Refuse a place for an export that is taken, in no folder, or named as torch would not have it.

    Raises:
        UserError: see above
    """
    check_out(out)
    if out.exists():
        raise UserError(f"--out {out}: exists already; choose another name, or delete it")
    if format == "torch" and out.suffix != ".pt2":
        raise UserError(f"--out {out}: torch.export's files end in .pt2; choose another name")


def check_out(out: Path) -> None:
    """Refuse a file to write whose folder does not exist.

    Raises:
        UserError: see above
    """
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
