"""Files and folders of weights, read into tensors and metadata without running any code in them."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

FOLDER_FILES = ("model.safetensors", "encoder.safetensors")  # fine-tuned (or exported), pre-trained
WRAPPERS = ("model", "state_dict")  # official files and our checkpoints; timm's checkpoints
FORMAT_VERSION = "1"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file under the names they have there, on the CPU, and our metadata where there is any.

    Args:
        path: a folder that holds one of FOLDER_FILES, a safetensors file, or what torch.save wrote

    Raises:
        ValueError: absent, damaged, from a newer version, or not a dict of tensors
    """
    if path.is_dir():
        files = [path / name for name in FOLDER_FILES if (path / name).is_file()]
        if not files:
            raise ValueError(
                f"holds neither {' nor '.join(FOLDER_FILES)}, which a finished run writes: name a file of "
                "weights, for instance one of a run's checkpoints"
            )
        path = files[0]
    elif not path.is_file():
        raise ValueError("no such file or folder")
    return _read_safetensors(path) if path.suffix == ".safetensors" else (_read_torch(path), {})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot be read as safetensors ({error})") from error
    if not metadata.get("format", "").startswith('"fcmae.'):
        return tensors, {}
    metadata = {name: json.loads(value) for name, value in metadata.items()}
    if metadata["format"].rpartition(".")[2] != FORMAT_VERSION:
        raise ValueError(f"has format {metadata['format']}, from a newer version of this project: update it")
    return tensors, metadata


def _read_torch(path: Path) -> dict[str, Tensor]:
    """What torch.save wrote, by its reader that makes nothing but data.

    Args:
        path: a state dict, or a checkpoint that holds one under a name of WRAPPERS
    """
    try:
        # The official training code and timm store their settings beside the weights as a plain Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any kind can fail in any way
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(
            f"cannot be read as plain tensors ({type(error).__name__}: {reason}); a file that runs code when "
            "it is read is refused: save its state dict alone"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict):
        raise ValueError(f"holds a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}: it is no dict of tensors by name")
    return dict(state)
