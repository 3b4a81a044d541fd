"""States in parts: each process writes what it holds of sharded tensors, and one process can read all.

A state dict whose tensors are sharded becomes two things. A folder holds the parts, a safetensors file for
each process, written by torch.distributed.checkpoint. The state itself keeps all else, with a tensor on the
meta device for each that lies in parts, and the digests of the files: whoever seals it seals them.
"""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from fcmae.core.errors import UserError
from fcmae.core.files import sync_folder
from fcmae.models.card import SHARDS


def map_tensors(state: Any, change: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    """Return nested dicts and lists with each tensor changed, given its path, such as `model/head.weight`."""
    if isinstance(state, dict):
        return {name: map_tensors(each, change, f"{path}/{name}") for name, each in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map_tensors(each, change, f"{path}/{i}") for i, each in enumerate(state))
    return change(path.removeprefix("/"), state) if isinstance(state, Tensor) else state


def copy_to_cpu(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a state that training does not change, on the CPU."""
    copied: dict[str, Any] = map_tensors(state, lambda _, tensor: tensor.detach().to("cpu", copy=True))
    return copied


def write_shards(state: dict[str, Any], folder: Path, group: dist.ProcessGroup) -> dict[str, Any]:
    """Write the parts of a state, and return the rest of it. All processes call this.

    Args:
        state: with sharded tensors
        folder: where the files go; it exists, and is the same for all
        group: of all processes, on the CPU, which nobody else uses meanwhile

    Raises:
        OSError: a process cannot write
    """
    tensors: dict[str, Any] = {}

    def take(path: str, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        tensors[path] = tensor.detach()
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    rest: dict[str, Any] = map_tensors(state, take)
    try:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(tensors, storage_writer=writer, process_group=group)
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            if isinstance(failure, OSError):
                raise failure from error
        raise OSError(str(error)) from error
    sync_folder(folder)
    rank = dist.get_rank(group)
    digests: list[Any] = [None] * dist.get_world_size(group)
    own = folder.glob(f"shard-{rank + 1:05d}-*.safetensors")
    dist.all_gather_object(digests, {file.name: digest(file) for file in own}, group=group)
    files = {name: each for found in digests for name, each in sorted(found.items())}
    return {**rest, SHARDS: {"folder": folder.name, "files": files}}


def read_shards(state: dict[str, Any], beside: Path) -> dict[str, Any]:
    """Return a state with all its tensors, in one process, on the CPU; one that is not in parts is itself.

    Args:
        state: the rest that `write_shards` returned, or parts of it
        beside: the file that held it: the folder lies beside

    Raises:
        UserError: a part is absent or damaged
        OSError: it cannot be read
    """
    if SHARDS not in state:
        return state
    rest = {name: each for name, each in state.items() if name != SHARDS}
    folder = _checked_folder(state[SHARDS], beside)
    tensors: dict[str, Any] = {}

    def allocate(path: str, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            tensor = tensors[path] = torch.empty(tensor.shape, dtype=tensor.dtype)
        return tensor

    whole: dict[str, Any] = map_tensors(rest, allocate)
    try:
        with warnings.catch_warnings(action="ignore"):  # that one process reads, which is meant
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except (CheckpointException, RuntimeError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder}: does not hold what {beside.name} needs ({type(error).__name__})"
        ) from error
    return whole


def _checked_folder(shards: Any, beside: Path) -> Path:
    """Return the folder of a state's parts.

    Raises:
        UserError: it does not hold these files, byte for byte, and no others
    """
    if not isinstance(shards, dict) or not isinstance(shards.get("files"), dict):
        raise UserError(f"{beside}: damaged, or not a checkpoint (it does not say where its parts are)")
    folder, files = beside.parent / Path(str(shards.get("folder"))).name, shards["files"]
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, which holds the parts of {beside.name}")
    there = {file.name for file in folder.iterdir()}
    if there != files.keys():
        raise UserError(f"{folder}: holds {len(there)} files, not the {len(files)} of {beside.name}")
    for name, expected in files.items():
        if digest(folder / name) != expected:
            raise UserError(f"{folder / name}: damaged (its bytes are not those that {beside.name} names)")
    return folder


def digest(file: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: it cannot be read
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
