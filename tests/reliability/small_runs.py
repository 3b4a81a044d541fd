"""A short pre-training and a short fine-tuning, run in forked children and compared bit for bit.

A child costs a fraction of a second, for the parent has imported everything and computed nothing: PyTorch
does not survive a fork after its first backward pass. So this is for scripts, which tests start anew.
"""

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from fcmae.engine.checkpoint import Checkpoints, load_checkpoint
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.main import main

KINDS = ("pretrain", "finetune")
NETWORK = {"stem_stride": 1, "depths": [1, 1, 1, 1], "dims": [4, 4, 4, 4]}
SHARED = {
    "epochs": 3,
    "batch_size": 4,
    "image_size": 16,
    "device": "cpu",
    "model": "convnextv2_atto",
    "network": NETWORK,
    "images": {"workers": 0, "crop_scale": [0.5, 1.0]},
    "loop": {"log_every": 2, "loggers": [], "save_minutes": 0},
}
OWN: dict[str, dict[str, Any]] = {
    "pretrain": {"decoder": {"dim": 8}, "pictures_every": 2},
    "finetune": {"ema_decay": 0.9, "best": "loss", "val_fraction": 0.3},
}


def make_data(folder: Path) -> None:
    """Write 16 small images in two folders, one of them broken, and a recipe for each kind of run."""
    generator = np.random.default_rng(0)
    for number in range(16):
        path = folder / "images" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:100])
    for kind in KINDS:
        recipe = {"data": str(folder / "images"), **SHARED, **OWN[kind]}
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(recipe))


def argv_of(kind: str, data: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of a run."""
    return [kind, "--config", str(data / f"{kind}.yaml"), "--out", str(out), *options]


def import_all() -> None:
    """Import what runs import late, once for all children."""
    import timm.data
    import timm.loss  # noqa: F401

    import fcmae.finetune.task
    import fcmae.launch.cli.finetune
    import fcmae.launch.cli.pretrain
    import fcmae.pretraining.task  # noqa: F401

    torch.set_num_threads(1)


def in_child(argv: list[str], folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run a command in a forked child; return its exit status, negative after a signal, 70 for a traceback.

    Args:
        argv: of fcmae
        folder: where the child keeps its cache, and its output in `output.txt`
        before: called in the child first
    """
    child = os.fork()
    if not child:
        status = 70
        try:
            output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
            before()
            status = main(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def end_of(out: Path) -> dict[str, Any]:
    """Return what a run ended with: checkpoints but for times, exported bytes, records of epochs, files."""
    run = RunFolder(out)
    checkpoints = Checkpoints(run.checkpoints)
    there = [path for path in (*checkpoints.files(), checkpoints.best) if path.exists()]
    states = {path.name: load_checkpoint(path) for path in there}
    for state in states.values():
        del state["progress"]["seconds"]
    exported = {path.name: path.read_bytes() for path in (run.encoder, run.classifier) if path.exists()}
    records = [record for record in run.records() if "epoch_loss" in record]
    epochs = [json.dumps({**record, "time": None}) for record in records]
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
    return {"states": states, "exported": exported, "epochs": epochs, "files": files}


def same(one: Any, other: Any) -> bool:
    """Return whether two nested values are the same, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def difference(out: Path, whole: dict[str, Any]) -> str:
    """Return where the end of a run differs from that of one that nothing interrupted, if it does."""
    end = end_of(out)
    wrong = [name for name in whole if not same(end[name], whole[name])]
    return ", ".join(wrong + sorted(set(end["files"]) ^ set(whole["files"])))
