"""A small run on the built-in digits, in a module of its own so that another process can import it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fcmae.data.config import ImagesConfig
from fcmae.engine.config import LoopConfig, OptimConfig
from fcmae.engine.progress import Summary
from fcmae.finetune.config import AugmentConfig, FinetuneConfig, NetworkConfig
from fcmae.finetune.prepare import prepare
from fcmae.finetune.task import finetune

NETWORK = NetworkConfig(
    in_chans=1, stem_stride=1, depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), head_init_scale=1.0
)


def small_config(out: Path, **options: Any) -> FinetuneConfig:
    """Two epochs of 4 steps with all on that draws random numbers; the options are FinetuneConfig's."""
    config = FinetuneConfig(
        data="digits",
        train_fraction=0.1,
        model="convnextv2_atto",
        image_size=16,
        crop_pct=1.0,
        epochs=2,
        batch_size=32,
        layer_decay=0.8,
        ema_decay=0.9,
        network=replace(NETWORK, drop_path_rate=0.2),
        augment=AugmentConfig(color_jitter=0.2, erase=0.5, mixup=0.4, cutmix=0.4),
        optim=OptimConfig(lr=1e-3, betas=(0.9, 0.999), warmup_epochs=0.5, clip_grad=1.0),
        images=ImagesConfig(workers=0, crop_scale=(0.5, 1.0), hflip=False),
        loop=LoopConfig(log_every=2, save_minutes=0.0),
        device="cpu",
        out=str(out),
    )
    return replace(config, **options)


def run_small(out: Path, **options: Any) -> Summary:
    """Train it."""
    return finetune(*prepare(small_config(out, **options)))
