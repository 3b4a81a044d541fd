"""Checkpoints that are whole, checked when read, and few."""

import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

from fcmae.core.errors import TransientError, UserError, explain
from fcmae.core.files import TEMPORARY_SUFFIX, is_intact, replace_durably, seal, write_atomically
from fcmae.models.card import SHARDS

logger = logging.getLogger(__name__)

FORMAT = 1  # of what a run saves; one that another version could not go on from gets the next number
PARTS = {"model", "optimizer", "scaler", "progress", "data"}  # of what a run saves, at least


class Checkpoints:
    """The checkpoints of one run: `step_000001234.pt`, the newest few of them, and `best.pt`.

    Args:
        folder: where they lie; made when the first one is saved
        keep: how many of the newest are kept, at least 1
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise UserError(f"loop.keep is {keep}: a run needs at least 1 checkpoint to resume from")
        self.folder = folder
        self.keep = keep

    @property
    def best(self) -> Path:
        """Where the best checkpoint is, if one was saved."""
        return self.folder / "best.pt"

    def files(self) -> list[Path]:
        """Return the checkpoints by step, oldest first; the best one is not among them."""
        return sorted(self.folder.glob("step_*.pt"))

    def check(self) -> None:
        """Refuse to resume where no file can be a checkpoint; none is read, for all are zip files.

        Raises:
            UserError: there are checkpoints, and all are damaged
        """
        files = self.files()
        if files and not any(zipfile.is_zipfile(file) for file in files):
            raise UserError(
                f"{files[-1]}: damaged, or not a checkpoint, and so are all in that folder; delete "
                f"{self.folder.parent} to start again, or choose another --out"
            )

    def save(self, state: dict[str, Any], step: int, best: bool = False) -> Path:
        """Write a checkpoint, then delete what is no longer kept.

        Checkpoints of later steps are deleted too: they belong to a future that was damaged and abandoned.

        Args:
            state: tensors, numbers, strings, lists and dicts; its parts, if it has some, lie in `new_shards`
            step: optimiser steps done
            best: also keep it as `best.pt`

        Raises:
            UserError: it cannot be written (disk full, folder gone); the former checkpoints are untouched
        """
        path = self._path(step)
        try:
            if SHARDS not in state:
                self._make_room(step)
            write_sealed(state, path)
            if best:
                self.mark_best(step)
            for future in self.files():
                if future > path:
                    future.unlink()
            self.tidy(step)
        except OSError as error:
            raise self.cannot_write(path, error) from error
        except RuntimeError as error:  # torch.save's own complaint about a write that failed hides the reason
            if not isinstance(error.__context__, OSError):
                raise
            raise self.cannot_write(path, error.__context__) from error
        return path

    def new_shards(self, step: int) -> Path:
        """Return a new folder for the parts of the checkpoint that is written next.

        Raises:
            UserError: it cannot be made
        """
        stem = self._path(step).stem
        try:
            self._make_room(step)
            there = {each.name for each in self.folder.glob(f"{stem}.shards-?")}
            name = next(each for each in (f"{stem}.shards-{i}" for i in range(10)) if each not in there)
            folder = self.folder / name
            folder.mkdir()
        except OSError as error:
            raise self.cannot_write(self._path(step), error) from error
        return folder

    def _make_room(self, step: int) -> None:
        """Make the folder, and delete what is no longer kept."""
        self.folder.mkdir(exist_ok=True)  # alone: a run that was deleted is not begun anew
        self.tidy(step)

    def newest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole and a run's, on the CPU, if one was ever saved.

        Raises:
            UserError: there are checkpoints and every one is damaged, or the newest is of a newer version
            TransientError: one cannot be read now: it is not given up for an older one
        """
        files = self.files()
        for path in reversed(files):
            try:
                state = load_checkpoint(path)
                missing = PARTS - state.keys()
                if missing:
                    raise UserError(f"{path}: no checkpoint of a run (without {', '.join(sorted(missing))})")
            except TransientError:
                raise
            except UserError as error:
                logger.warning("%s; falling back to the checkpoint before it", error)
                continue
            if state.setdefault("format", 1) != FORMAT:
                raise UserError(
                    f"{path}: written by another version of fcmae (format {state['format']}, where this one "
                    f"reads {FORMAT}): use that version, or choose another --out"
                )
            return state
        if files:
            raise UserError(f"{self.folder}: all {len(files)} checkpoints are damaged; start again elsewhere")
        return None

    def mark_best(self, step: int) -> None:
        """Keep the checkpoint of a step as the best one, whatever was the best before.

        Raises:
            OSError: the folder cannot be written
        """
        path = self._path(step)
        if self.best.exists() and path.samefile(self.best):  # renaming one link to another would do nothing
            return
        if parts_of(path):  # they are not kept as long
            write_sealed(load_checkpoint(path, without=("optimizer",)), self.best)
            return
        temporary = self.best.with_name(self.best.name + TEMPORARY_SUFFIX)
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
        replace_durably(temporary, self.best)

    def _path(self, step: int) -> Path:
        """Return the file of the checkpoint after a step."""
        return self.folder / f"step_{step:09d}.pt"

    def tidy(self, step: int) -> None:
        """Delete what a killed process left half written, and what is older than the newest few up to a step.

        Raises:
            OSError: the folder cannot be written
        """
        for leftover in self.folder.glob(f"*{TEMPORARY_SUFFIX}"):
            leftover.unlink()
        for old in [path for path in self.files() if path <= self._path(step)][: -self.keep]:
            old.unlink()
        for folder in self.folder.glob("step_*.shards-?"):
            if folder not in parts_of(folder.with_suffix(".pt")):
                shutil.rmtree(folder)

    def cannot_write(self, path: Path, error: OSError) -> UserError:
        """Return the error of a checkpoint that cannot be written: what happened, what is left."""
        explained = explain(error, path) or TransientError(f"{path}: {error}; repeat the command")
        try:
            kept = len(self.files())
            left = f"{kept} saved before it, untouched" if kept else "none was saved before it"
            left += f"; {shutil.disk_usage(self.folder).free / 1e6:.0f} MB are free"
        except OSError:
            left = "its folder is gone"
        return type(explained)(f"the checkpoint cannot be written: {explained}; {left}")


def write_sealed(state: dict[str, Any], path: Path) -> None:
    """Write a state to a file that appears whole, sealed, or not at all.

    Raises:
        OSError, RuntimeError: it cannot be written
    """
    import torch

    with write_atomically(path) as file:
        torch.save(state, file)
        seal(file)


def parts_of(path: Path) -> list[Path]:
    """Return the folder with the parts of a checkpoint, if it has one; where the file is damaged, all."""
    folders = list(path.parent.glob(f"{path.stem}.shards-?"))
    if not path.exists() or not folders:
        return []
    import torch

    try:
        folder = torch.load(path, map_location="cpu", weights_only=True).get(SHARDS, {}).get("folder")
    except Exception:  # damaged, in whatever way
        return folders
    return [each for each in folders if each.name == folder]


def load_checkpoint(path: Path, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, its parts too, after checking that every byte is as it was written.

    torch.load does not compare the checksums that torch.save writes, and these leave out parts of the file: a
    seal covers all of it. Nothing but plain data is unpickled.

    Args:
        path: the checkpoint
        without: what of it is left out

    Raises:
        UserError: the file is absent, damaged or not a checkpoint
        TransientError: it cannot be read now
    """
    import torch  # here, so that a folder can be looked through before that takes seconds

    try:
        if not is_intact(path):
            raise UserError(f"{path}: damaged, or not a checkpoint (its bytes are not those of its seal)")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            state = {name: each for name, each in state.items() if name not in without}
        if isinstance(state, dict) and SHARDS in state:
            from fcmae.models.shards import read_shards

            state = read_shards(state, path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: damaged, or not a checkpoint ({type(error).__name__})") from error
    except OSError as error:
        raise explain(error, path) or UserError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of ours (holds a {type(state).__name__})")
    return state
