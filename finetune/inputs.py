"""What measuring and predicting look at before torch is imported."""

from pathlib import Path

from fcmae.data.classes import find_val_classes
from fcmae.data.index import ImageIndex
from fcmae.data.names import is_folder
from fcmae.engine.errors import UserError
from fcmae.engine.preflight import check_device
from finetune.resolve import read_header, weights_file


def check_weights(weights: Path, device: str) -> None:
    """Refuse weights that are not there, or that no file of weights can be, and a device that is not there.

    Raises:
        UserError: see above
    """
    check_device(device)
    read_header(weights_file(weights))


def check_labelled(data: str, weights: Path) -> None:
    """Refuse a folder that is no tree of classes, or has classes that the weights' head does not know.

    Raises:
        UserError: see above
    """
    if not is_folder(data):
        return
    classes = find_val_classes(data).classes
    check_classes(classes, read_header(weights_file(weights)).get("class_names"), data, weights)


def check_classes(classes: list[str], known: list[str] | None, data: str, weights: Path) -> None:
    """Refuse classes that the weights, where they name theirs, do not know.

    Raises:
        UserError: see above
    """
    unknown = sorted(set(classes) - set(known)) if known is not None else []
    if unknown:
        raise UserError(
            f"{data} has {len(classes)} classes, and {weights} was trained on {len(known or [])} without "
            f"{len(unknown)} of them ({', '.join(unknown[:5])}): measure on the classes it was trained on"
        )


def check_images(images: Path) -> None:
    """Refuse a folder without images.

    Raises:
        UserError: see above
    """
    ImageIndex.scan(images).check_headers()


def check_out(out: Path) -> None:
    """Refuse a file to write whose folder does not exist.

    Raises:
        UserError: see above
    """
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist")
