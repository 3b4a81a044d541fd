"""What the commands that use trained weights refuse, before torch is imported."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fcmae.core.device import check_device
from fcmae.core.errors import UserError
from fcmae.data.classes import some
from fcmae.data.sources import Spec, find_opener
from fcmae.engine.run_folder import RunFolder
from fcmae.finetune.origin import is_own_data, own_run
from fcmae.models.card import read_card

ExportFormat = Literal["onnx", "timm", "transformers", "torch"]


def check_weights(weights: Path, device: str) -> None:
    """Refuse weights that are not there, or that no file of weights can be, and a device that is not there.

    Args:
        weights: run folder or file
        device: as for `check_device`

    Raises:
        UserError: also for a checkpoint whose run has not yet written how its images are prepared
    """
    check_device(device)
    folder = weights.absolute().parent
    run = RunFolder(folder.parent)
    if read_card(weights) is None and folder == run.checkpoints and run.config.is_file():
        raise UserError(
            f"{weights}: {run.path} has not yet written its weights, which say how images are "
            "prepared for this checkpoint: wait for its first epochs, or repeat its command if it has ended"
        )


def check_labelled(data: Spec | None, weights: Path) -> None:
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
    opener = find_opener(data)
    check_classes(opener.val_classes(), known, opener.spec, weights)


def check_classes(classes: Sequence[str], known: Sequence[str] | None, data: str, weights: Path) -> None:
    """Refuse classes that the weights do not know.

    Args:
        classes: of the data
        known: of the weights, if they name theirs
        data, weights: for the message

    Raises:
        UserError: names some of those and some that the weights know
    """
    unknown = sorted(set(classes) - set(known)) if known is not None else []
    if unknown:
        raise UserError(
            f"{weights} does not know {len(unknown)} of the {len(classes)} classes of {data} "
            f"({some(unknown)}); it knows {len(known or [])} ({some(list(known or []))}): measure on those"
        )


def check_images(images: Spec) -> None:
    """Refuse data without images, or with files that are images by their names alone.

    Raises:
        UserError: the message gives an example
    """
    find_opener(images).check()


def check_features_file(out: Path) -> None:
    """Refuse a file for features that is neither npz nor Parquet, or Parquet where pyarrow is missing.

    Raises:
        UserError: names the suffixes, or what to install
    """
    if out.suffix not in (".npz", ".parquet"):
        raise UserError(f"--out {out}: choose a name that ends in .npz or .parquet")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"--out {out}: Parquet needs pyarrow (pip install pyarrow), or choose .npz")


def check_export(format: ExportFormat, out: Path) -> None:
    """Refuse a place for an export that is taken, in no folder, or named as torch would not have it.

    Raises:
        UserError: names the place and the remedy
    """
    check_out(out)
    if out.exists():
        raise UserError(f"--out {out}: exists already; choose another name, or delete it")
    if format == "torch" and out.suffix != ".pt2":
        raise UserError(f"--out {out}: torch.export's files end in .pt2; choose another name")


def check_out(out: Path) -> None:
    """Refuse a file to write whose folder does not exist.

    Raises:
        UserError: names the folder
    """
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
