"""Files and folders of weights, read into tensors and metadata without running any code in them."""

import argparse
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fcmae.models.header import find_weights, read_header

WRAPPERS = ("model", "state_dict")  # official files and our checkpoints; timm's checkpoints
AVERAGED = "ema"  # the moving average of the weights in our checkpoints, and before the names of its figures
STARTS = (b"PK", b"\x80")  # of the zip archives and the pickles that torch.save writes


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file under the names they have there, on the CPU, and our metadata where there is any.

    Args:
        path: see `find_weights`; a safetensors file, or what torch.save wrote. Of a checkpoint
            in a run that keeps averaged weights, they are read

    Raises:
        ValueError: absent, damaged, from a newer version, or not a dict of tensors
    """
    header = read_header(path)
    file = find_weights(path)
    if file.suffix != ".safetensors":
        averaged = any(name.startswith(AVERAGED) for name in header.get("metrics", ()))
        return _read_torch(file, (AVERAGED, *WRAPPERS) if averaged else WRAPPERS), header
    try:
        return load_file(file), header
    except (SafetensorError, OSError) as error:
        raise ValueError(f"cannot be read as safetensors ({error})") from error


def _read_torch(path: Path, wrappers: tuple[str, ...]) -> dict[str, Tensor]:
    """What torch.save wrote, by its reader that makes nothing but data.

    Args:
        path: a state dict, or a checkpoint that holds one under one of the names in `wrappers`
    """
    try:
        # The official training code and timm store their settings beside the weights as a plain Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any kind can fail in any way
        with path.open("rb") as file:
            if not file.read(2).startswith(STARTS):
                raise ValueError("is not a file of weights") from error
        reason = type(error).__name__
        if not isinstance(error, pickle.UnpicklingError):  # whose text tells how to switch the safety off
            reason += ": " + str(error).partition("\n")[0][:200]
        raise ValueError(
            f"cannot be read as plain tensors ({reason}); a file that runs code when it is read is refused: "
            "save its state dict alone"
        ) from error
    for wrapper in wrappers:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict):
        raise ValueError(f"holds a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}: it is no dict of tensors by name")
    return dict(state)
