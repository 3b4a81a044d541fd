"""What weights say about themselves, read without torch: the file that is meant, and our metadata in it."""

import json
from pathlib import Path
from typing import Any

CLASSIFIER = "model.safetensors"  # fine-tuned, or exported
ENCODER = "encoder.safetensors"  # pre-trained
RESULTS = (CLASSIFIER, ENCODER)
CHECKPOINTS = "checkpoints"  # folder of a run's checkpoints, beside its result
FORMAT_VERSION = "1"


def find_weights(path: Path) -> Path:
    """The file that a folder keeps its weights in; a file is itself.

    Raises:
        ValueError: neither a file nor a folder with weights
    """
    if path.is_dir():
        found = find_result(path)
        if found is None:
            raise ValueError(
                f"holds neither {' nor '.join(RESULTS)}, which a run writes after its "
                "first epochs: name a file of weights"
            )
        return found
    if not path.is_file():
        raise ValueError("no such weights; give a run folder, or a file of weights")
    return path


def find_result(folder: Path) -> Path | None:
    """The weights that a run has written; none where it has not got there."""
    return next((folder / name for name in RESULTS if (folder / name).is_file()), None)


def read_header(path: Path) -> dict[str, Any]:
    """Our metadata, whose values are JSON; empty for weights of others.

    A checkpoint in a run says nothing of itself: what holds for the weights that its run wrote holds for it.

    Args:
        path: a folder or a file, as for `find_weights`

    Raises:
        ValueError: absent, damaged or from a newer version
    """
    from safetensors import SafetensorError, safe_open

    file = find_weights(path)
    if file.suffix != ".safetensors":
        folder = file.absolute().parent
        result = find_result(folder.parent) if folder.name == CHECKPOINTS else None
        return {} if result is None else read_header(result)
    try:
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot be read as safetensors ({error})") from error
    if not metadata.get("format", "").startswith('"fcmae.'):
        return {}
    header = {name: json.loads(value) for name, value in metadata.items()}
    if header["format"].rpartition(".")[2] != FORMAT_VERSION:
        raise ValueError(f"has format {header['format']}, from a newer version of this project: update it")
    return header
