"""Files of weights: tensors and their card, written whole, and read without running any code in them."""

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fcmae.core.errors import UserError
from fcmae.core.files import is_intact, write_atomically
from fcmae.models.card import SHARDS, Card, find_weights, read_card
from fcmae.models.unwrap import find_network

WRAPPERS = ("model", "state_dict")  # official files and our checkpoints; timm's checkpoints
AVERAGED = "ema"  # the moving average of the weights in our checkpoints
STARTS = (b"PK", b"\x80")  # of the zip archives and the pickles that torch.save writes


def save_weights(path: Path, state: Mapping[str, Tensor], card: Card) -> None:
    """Write tensors by name, with their card, as a safetensors file whose bytes depend on these alone.

    Args:
        path: the file to write
        state: of a network, on any device
        card: what is known of it

    Raises:
        OSError: the disk is full or the folder cannot be written
    """
    content = save({name: tensor.contiguous().cpu() for name, tensor in state.items()})
    # The library would write the metadata in an order that every process draws anew: it goes in front here.
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": card.to_metadata(), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    with write_atomically(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(content)[8 + length :])


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Card | None]:
    """Return a network's tensors under the names they have in a file, on the CPU, and their card or None.

    Args:
        path: as for `find_weights`; a safetensors file, or what torch.save wrote. Of a checkpoint
            whose card is that of averaged weights, they are read; of a file without a card, the ConvNeXt
            in it (`find_network`), which the path may choose

    Raises:
        UserError: absent, damaged, from a newer version, or not a dict of tensors
    """
    card = read_card(path)
    choice = find_weights(path)[1]
    content = read_content(path)
    try:
        foreign = isinstance(content, Mapping) and (card is None or choice)
        network = find_network(content, choice) if foreign else None
        if network is None:
            averaged = card is not None and card.averaged
            network = _unwrap(content, (AVERAGED, *WRAPPERS) if averaged else WRAPPERS)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return network, card


def read_content(path: Path) -> Any:
    """Return all that a file of weights holds, as it stands.

    Args:
        path: as for `find_weights`

    Raises:
        UserError: absent or damaged, or it would run code
    """
    file = find_weights(path)[0]
    try:
        return _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot be read as safetensors ({error})") from error


def _read_torch(path: Path) -> Any:
    """Return what torch.save wrote, by its reader that makes nothing but data.

    Raises:
        UserError: it is damaged, or holds code
    """
    if is_intact(path) is False:
        raise UserError("is damaged (its bytes are not those of its seal)")
    try:
        # The official training code and timm store their settings beside the weights as a plain Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of any kind can fail in any way
        with path.open("rb") as file:
            if not file.read(2).startswith(STARTS):
                raise UserError("is not a file of weights") from error
        reason = type(error).__name__
        if not isinstance(error, pickle.UnpicklingError):  # whose text tells how to switch the safety off
            reason += ": " + str(error).partition("\n")[0][:200]
        raise UserError(
            f"cannot be read as plain tensors ({reason}); a file that runs code when it is read is refused: "
            "save its state dict alone"
        ) from error
    if isinstance(content, dict) and SHARDS in content:
        from fcmae.models.shards import read_shards  # takes a second to import

        content = read_shards({name: each for name, each in content.items() if name != "optimizer"}, path)
    return content


def _unwrap(state: Any, wrappers: tuple[str, ...]) -> dict[str, Tensor]:
    """Return a state dict, or the one that a checkpoint holds under one of the names in `wrappers`.

    Raises:
        UserError: it is no dict of tensors by name
    """
    for wrapper in wrappers:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict):
        raise UserError(f"holds a {type(state).__name__}, not a dict of tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{name} is a {type(value).__name__}: it is no dict of tensors by name")
    return dict(state)
