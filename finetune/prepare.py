"""Everything about a fine-tuning run that can be wrong, looked at before the network is built."""

import difflib
import re
from pathlib import Path

from fcmae.core.device import check_device
from fcmae.core.distributed import current_world
from fcmae.core.errors import UserError
from fcmae.core.settings import check_counts
from fcmae.data.index import ImageIndex, check_digest, load_lists, save_lists
from fcmae.data.moved import move_lists
from fcmae.data.pixels import check_pixels
from fcmae.data.sources import find_opener
from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.config import VOLATILE_IN_ALL, check_ranges
from fcmae.engine.history import RunSettings
from fcmae.engine.run_folder import RunFolder, free_folder
from fcmae.finetune.config import FIXED, POLICY_CHANNELS, TIMM, AugmentConfig, FinetuneConfig
from fcmae.finetune.resolve import resolve
from fcmae.models.geometry import check_image_size, total_stride
from fcmae.models.sizes import find_size

AUTO_AUGMENT = re.compile(r"(rand|augmix|original|originalr|v0|v0r|3a)(-\w+(\.\d+)?)*")
BEST = re.compile(r"(ema_)?(top1|top5|mean_class|map|mae|rmse|r2|val_loss)|loss")


def prepare(
    config: FinetuneConfig, *, acquire: bool = True, lists_digest: str | None = None
) -> tuple[FinetuneConfig, RunFolder]:
    """Resolve the settings, check them, list the images and acquire the folder of a run.

    Nothing here imports torch, unless --init is a file without our metadata, --model one of timm's, or images
    have to be looked at (see `check_pixels`). The lists of images are kept in the run: a resumed run sees the
    same images and the same split.

    Args:
        config: as given
        acquire: false only checks, and writes nothing
        lists_digest: of the lists that the folder holds already, which are then used: they were made when the
            run was queued

    Returns:
        the resolved settings, and the folder of the run

    Raises:
        UserError: anything that would make the run fail later; the message names the value and the remedy
    """
    config = resolve(config)
    check(config)
    data = find_opener(config.data)
    settings = RunSettings.of(config, VOLATILE_IN_ALL, FIXED)
    if config.out:
        run = RunFolder(config.out)
    else:
        name = f"finetune-{data.name}-{config.model}".replace(":", "-").replace("/", "-")
        run = free_folder(name, settings)
    lists = list_data(config, run, lists_digest)
    if lists and not run.started:
        check_pixels(lists[0], config.in_chans, config.images.value_range, config.images.no_data)
    check_batch(config, next(iter(data.counts(lists)), config.batch_size))
    Checkpoints(run.checkpoints).check()
    check_timm(config.model or "")
    run.check(settings)
    if not acquire:
        return config, run
    if config.change and (moved := run.differences(settings).get("data")):
        move_lists([run.train_images, run.val_images], *moved)
    run.acquire(settings)
    if not (run.started or lists_digest):
        save_lists(lists, run.train_images, run.val_images)
    return config, run


def list_data(config: FinetuneConfig, run: RunFolder, digest: str | None = None) -> list[ImageIndex]:
    """Return both lists of images of a run, if it has any: what it keeps, or of a new run what is there now.

    Args:
        digest: of lists that are kept for a new run too

    Raises:
        UserError: the kept lists are damaged or others, or there are no images
    """
    if not (run.started or digest):
        return find_opener(config.data).list_splits(config.val_fraction, config.seed)
    kept = load_lists(run.train_images, run.val_images)
    if digest:
        check_digest(kept, digest, run.train_images)
    return kept


def check(config: FinetuneConfig) -> None:
    """Refuse resolved settings that cannot work.

    Raises:
        UserError: names the setting, its value and the remedy
    """
    check_device(config.device)
    check_ranges(config.seed, config.network.drop_path_rate)
    check_network(config)
    check_augment(config.augment, config.network.in_chans)
    check_counts(
        {
            "epochs": config.epochs,
            "network.in_chans": config.in_chans,
            "patience": 1 if config.patience is None else config.patience,
            "augment.erase_count": config.augment.erase_count,
            "each of network.depths": min(config.network.depths or (1,)),
            "each of network.dims": min(config.network.dims or (1,)),
        }
    )
    fractions = {
        "val_fraction": 0 < config.val_fraction < 1,
        "train_fraction": 0 < config.train_fraction <= 1,
        "crop_pct": 0 < config.crop_pct <= 1,
        "layer_decay": 0 < config.layer_decay <= 1,
        "ema_decay": config.ema_decay is None or 0 < config.ema_decay < 1,
    }
    for name, fits in fractions.items():
        if not fits:
            raise UserError(f"{name} is {getattr(config, name)}: it is a fraction between 0 and 1")
    config.optim.check(config.epochs, config.batch_size)
    if config.init_classes is not None and not Path(config.init_classes).expanduser().is_file():
        raise UserError(f"--init-classes {config.init_classes}: no such file")
    config.loop.check()
    config.images.check()
    if config.images.decode == "gpu":
        raise UserError("images.decode is gpu, which is for pre-training: choose scaled or full")
    if config.ema_decay is not None and config.loop.sharding == "fsdp":
        raise UserError(
            "loop.sharding is fsdp, with which no moving average is kept: set ema_decay to null, or use ddp"
        )
    if not BEST.fullmatch(config.best):
        raise UserError(
            f"best {config.best!r}: choose loss, val_loss, top1, top5, mean_class, map, mae, rmse or r2, "
            "with ema_ before them or without"
        )
    if config.keeps_averaged and config.ema_decay is None:
        raise UserError(
            f"best is {config.best}, and no moving average is kept: set ema_decay, or best to top1"
        )


def check_augment(augment: AugmentConfig, channels: int | None) -> None:
    """Refuse augmentation that cannot be, or that timm does not have, or not for images of so many channels.

    Raises:
        UserError: names the setting, its value and the remedy
    """
    for name in ("erase", "mix_prob", "mix_switch", "label_smoothing"):
        if not 0 <= getattr(augment, name) <= 1:
            raise UserError(f"augment.{name} is {getattr(augment, name):g}: it goes from 0 to 1")
    for name in ("color_jitter", "mixup", "cutmix"):
        if getattr(augment, name) < 0:
            raise UserError(f"augment.{name} is {getattr(augment, name):g}: 0 turns it off")
    auto_augment = augment.auto_augment
    if auto_augment is not None and not AUTO_AUGMENT.fullmatch(auto_augment):
        raise UserError(f"augment.auto_augment {auto_augment!r}: try rand-m9-mstd0.5-inc1, v0 or null")
    for option, off, is_on in (
        ("--augment.auto-augment", "null", auto_augment is not None),
        ("--augment.color-jitter", "0", augment.color_jitter > 0),
    ):
        if is_on and channels not in POLICY_CHANNELS:
            raise UserError(f"{option} is for images of 1 or 3 channels, not {channels}: give {option} {off}")


def check_network(config: FinetuneConfig) -> None:
    """Refuse a model, a size of images or a number of frozen stages that cannot work.

    Raises:
        UserError: names the setting, its value and the remedy
    """
    model, network = config.model or "", config.network
    if model.startswith(TIMM):
        if network.freeze or network.depths or network.dims or config.init:
            raise UserError(
                f"model {model}: --init, network.freeze, depths and dims are for our networks only"
            )
        return
    find_size(model)
    check_image_size(config.size, total_stride(network.stem_stride or 4), any_stem=True)
    if network.freeze not in range(5):
        raise UserError(f"network.freeze is {network.freeze}: a network has 4 stages, so choose 0 to 4")


def check_timm(model: str) -> None:
    """Refuse a name that timm does not have; those on a hub or in a folder are not looked up.

    Raises:
        UserError: the message suggests the nearest name
    """
    name = model.removeprefix(TIMM)
    if name == model or ":" in name:
        return
    import timm  # slow, for it imports torch

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise UserError(
            f"--model {model}: timm has no model {name}" + (f"; did you mean {near[0]}?" if near else "")
        )


def check_batch(config: FinetuneConfig, num_images: int) -> None:
    """Refuse a batch that is larger than the data or that mixup cannot pair.

    Args:
        config: resolved
        num_images: to train on

    Raises:
        UserError: the message says which sizes fit
    """
    if not 1 <= config.batch_size <= num_images:
        data = find_opener(config.data).spec
        raise UserError(
            f"batch size {config.batch_size} does not fit the {num_images} training images of {data}: "
            f"choose --batch-size 1 to {num_images}"
        )
    processes, micro_batches = current_world().size, config.optim.accumulation_steps
    pairs = 2 * processes * micro_batches
    if config.augment.mixes and config.batch_size % pairs:
        raise UserError(
            f"mixup and CutMix pair the images of a batch: batch_size {config.batch_size} / ({processes} "
            f"processes x {micro_batches} accumulation steps) must be even: choose a multiple of {pairs}"
        )
