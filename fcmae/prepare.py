"""Everything about a pre-training run that can be wrong, looked at before torch is imported."""

import ctypes
import itertools
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

from fcmae.config import VOLATILE, PretrainConfig
from fcmae.data.index import ImageIndex
from fcmae.engine.errors import UserError
from fcmae.engine.run_folder import RunFolder
from fcmae.geometry import count_visible, patch_grid
from models.sizes import find_size

DIGITS = "digits"
NUM_DIGITS = 1797


def prepare(config: PretrainConfig) -> RunFolder:
    """Check the settings, list the images, and claim the run folder.

    Nothing here imports torch, so that a wrong path or size is reported in a second. The folder's list of
    images is kept in the run: a resumed run sees the same images, whatever has been added since.

    Raises:
        UserError: anything that would make the run fail later; the message names the value and the remedy
    """
    check_geometry(config)
    check_device(config.device)
    run = RunFolder(config.out) if config.out else free_folder(config)
    resuming = run.config.exists()
    num_images = NUM_DIGITS if config.data == DIGITS else len(list_images(config, run))
    if config.batch_size > num_images:
        raise UserError(
            f"batch size {config.batch_size} is more than the {num_images} images of {config.data}: "
            f"choose --batch-size {num_images} or less"
        )
    if resuming:
        check_checkpoints(run)
    run.claim(asdict(config), VOLATILE, resume=config.loop.resume)
    if config.data != DIGITS and not resuming:
        list_images(config, run).save(index_file(run))
    return run


def index_file(run: RunFolder) -> Path:
    """Where a run keeps its list of images."""
    return run.path / "images.npz"


def list_images(config: PretrainConfig, run: RunFolder) -> ImageIndex:
    """The images of the run: its own list where it has one, else what the folder holds now.

    Raises:
        UserError: no such folder, or no image in it that looks like one
    """
    if index_file(run).exists():
        return ImageIndex.load(index_file(run))
    index = ImageIndex.scan(config.data)
    index.check_headers()
    return index


def check_geometry(config: PretrainConfig) -> None:
    """Refuse a model, size, ratio or number that cannot work.

    Raises:
        UserError: see above
    """
    try:
        find_size(config.model)
        if config.network.stem_stride not in (1, 2, 4):
            raise ValueError(f"network.stem_stride {config.network.stem_stride}: choose 4, 2 or 1")
        rows, cols = patch_grid(config.image_size, 8 * config.network.stem_stride)
        count_visible(rows * cols, config.mask_ratio)
    except ValueError as error:
        raise UserError(str(error)) from error
    counts = {
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "network.in_chans": config.network.in_chans,
        "decoder.dim": config.decoder.dim,
        "pictures_every": config.pictures_every,
    }
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    config.optim.check(config.epochs)


def check_device(name: str) -> None:
    """Refuse CUDA where this machine has no driver for it; what torch makes of it is checked later.

    Raises:
        UserError: no driver
    """
    if name.startswith("cuda") and sys.platform == "linux":
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            raise UserError(
                f"--device {name}: this machine has no CUDA driver (libcuda.so.1); use --device cpu or auto"
            ) from None


def check_checkpoints(run: RunFolder) -> None:
    """Refuse to resume where no file under checkpoints/ can be a checkpoint (a torch.save file is a zip).

    Raises:
        UserError: see above
    """
    files = sorted(run.checkpoints.glob("step_*.pt"))
    if files and not any(zipfile.is_zipfile(file) for file in files):
        raise UserError(
            f"{files[-1]}: damaged, or not a checkpoint, and so are all in that folder; delete {run.path} to "
            "start again, or choose another --out"
        )


def free_folder(config: PretrainConfig) -> RunFolder:
    """The folder of a run that names none: runs/<data>-<model>, numbered where another run is there.

    A run with the same settings is found again, and so resumed.
    """
    data = Path(config.data).resolve().name if config.data != DIGITS else DIGITS
    for number in itertools.count(1):
        run = RunFolder(Path("runs") / f"{data}-{config.model}{f'-{number}' if number > 1 else ''}")
        if not run.path.exists():
            return run
        if run.config.exists() and config.loop.resume and not run.differences(asdict(config), VOLATILE):
            return run
    raise AssertionError("unreachable")
