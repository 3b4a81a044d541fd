"""Everything about a pre-training run that can be wrong, looked at before the network is built."""

import logging

from fcmae.core.device import check_device
from fcmae.core.errors import UserError
from fcmae.core.settings import check_counts
from fcmae.data.config import VAL_FRACTION
from fcmae.data.index import ImageIndex, check_digest, load_lists, save_lists
from fcmae.data.moved import move_lists
from fcmae.data.pixels import check_pixels
from fcmae.data.sources import find_opener
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.config import check_ranges
from fcmae.engine.history import RunSettings
from fcmae.engine.run_folder import RunFolder, free_folder
from fcmae.models.geometry import count_visible, patch_grid, total_stride
from fcmae.models.layouts import check_layout
from fcmae.models.sizes import find_size
from fcmae.pretraining.config import FIXED, VOLATILE, PretrainConfig

logger = logging.getLogger(__name__)

FEW_PATCHES = 16  # 4 x 4


def prepare(config: PretrainConfig, *, acquire: bool = True, lists_digest: str | None = None) -> RunFolder:
    """Check the settings, list the images, and acquire and return the run folder.

    Nothing here imports torch before images have to be looked at (see `check_pixels`), so that a wrong path
    or size is reported in a second. A folder's list of images is kept in the run: a resumed run sees the
    same images, whatever has been added since.

    Args:
        config: the settings
        acquire: false only checks, and writes nothing
        lists_digest: of the list that the folder holds already, which is then used: it was made when the run
            was queued

    Raises:
        UserError: anything that would make the run fail later; the message names the value and the remedy
    """
    check(config)
    if config.probe_data is not None:
        find_opener(config.probe_data).list_splits(VAL_FRACTION, seed=0)
    data = find_opener(config.data)
    settings = RunSettings.of(config, VOLATILE, FIXED)
    if config.out:
        run = RunFolder(config.out)
    else:
        name = f"{data.name}-{config.model}"
        run = free_folder(name, settings)
    lists = list_data(config, run, lists_digest)
    num_images = next(iter(data.counts(lists)), None)  # else known when the data is opened
    if num_images is not None:
        check_batch(config, num_images)
    Checkpoints(run.checkpoints).check()
    if lists and not run.started:
        check_pixels(lists[0], config.network.in_chans, config.images.value_range, config.images.no_data)
    run.check(settings)
    if not acquire:
        return run
    if config.change and (moved := run.differences(settings).get("data")):
        move_lists([run.images], *moved)
    run.acquire(settings)
    if not (run.started or lists_digest) or not run.images.exists():
        save_lists(lists, run.images)
    return run


def list_data(config: PretrainConfig, run: RunFolder, digest: str | None = None) -> list[ImageIndex]:
    """Return the list of images of a run, if it has one: what it keeps, or of a new run what is there now.

    Args:
        digest: of a list that is kept for a new run too

    Raises:
        UserError: the kept list is damaged or another one, or there are no images
    """
    kept = load_lists(run.images) if run.started or digest else []
    if digest:
        check_digest(kept, digest, run.images)
    return kept or find_opener(config.data).list_images()


def check(config: PretrainConfig) -> None:
    """Refuse values that cannot work, alone or together.

    Raises:
        UserError: the message names the value and what to choose
    """
    find_size(config.model)
    rows, cols = patch_grid(config.image_size, total_stride(config.network.stem_stride))
    visible = count_visible(rows * cols, config.mask_ratio)
    warn_of_few_patches(rows, cols, visible, config.network.stem_stride)
    counts = {
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "network.in_chans": config.network.in_chans,
        "decoder.dim": config.decoder.dim,
        "pictures_every": config.pictures_every,
        "probe_every": config.probe_every,
        "each of network.depths": min(config.network.depths or (1,)),
        "each of network.dims": min(config.network.dims or (1,)),
    }
    check_counts(counts)
    check_ranges(config.seed, config.network.drop_path_rate)
    check_initial(config)
    if config.decoder.depth < 0:
        raise UserError(f"decoder.depth is {config.decoder.depth}: choose 0 blocks or more")
    check_layout(config.layout)
    config.optim.check(config.epochs, config.batch_size)
    config.loop.check()
    config.images.check()
    if config.images.decode == "gpu" and config.device in ("cpu", "mps"):
        raise UserError(
            f"images.decode is gpu, but the run's device is {config.device}: choose scaled or full"
        )
    config.augment.check(config.network.in_chans)
    check_device(config.device)


def check_batch(config: PretrainConfig, num_images: int) -> None:
    """Refuse a batch of more images than there are to train on.

    Raises:
        UserError: names both numbers
    """
    held_out = config.count_held_out(num_images)
    if config.batch_size > num_images - held_out:
        spec = find_opener(config.data).spec
        kept = f", of which {held_out} are held out" if held_out else ""
        raise UserError(
            f"batch size {config.batch_size} is more than the {num_images} images of {spec}{kept}: "
            f"choose --batch-size {max(1, num_images - held_out)} or less"
        )


def check_initial(config: PretrainConfig) -> None:
    """Refuse weights to start from that are not there, and what would be said of them in vain.

    Raises:
        UserError: names the setting and its value
    """
    if not 0 < config.stage_decay <= 1:
        raise UserError(f"stage_decay is {config.stage_decay:g}: it must be above 0, and at most 1")
    if config.held_out is not None and config.held_out < 0:
        raise UserError(f"held_out is {config.held_out}: 0 holds out none")
    warmup = config.init_warmup
    if warmup is not None and not 0 <= warmup < config.epochs:
        raise UserError(
            f"init_warmup is {warmup:g} in a run of {config.epochs} epochs: the encoder would never learn"
        )
    if config.init is None and warmup is not None:
        raise UserError(f"init_warmup is {warmup:g} without --init: it is for going on from trained weights")


def warn_of_few_patches(rows: int, cols: int, visible: int, stem_stride: int) -> None:
    """Say that there is little to learn from where an image has only few patches, and could have more."""
    if rows * cols < FEW_PATCHES and stem_stride > 1:
        makes = {finer: rows * cols * (stem_stride // finer) ** 2 for finer in (2, 1)}
        finer = 2 if makes[2] >= FEW_PATCHES else 1
        logger.warning(
            "an image has %d x %d patches, of which %d %s seen: little to learn from. --network.stem-stride "
            "%d makes them %d x %d, a larger --image-size more as well",
            rows, cols, visible, "is" if visible == 1 else "are", finer,
            rows * stem_stride // finer, cols * stem_stride // finer,
        )  # fmt: skip
