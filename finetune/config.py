"""The settings of a fine-tuning run."""

from dataclasses import dataclass, field
from typing import Literal

from fcmae.data.config import CROP_PCT, VAL_FRACTION, ImagesConfig
from fcmae.engine.config import FIXED_IN_ALL, LoopConfig, OptimConfig

FIXED = (
    *FIXED_IN_ALL,
    *("val_fraction", "train_fraction", "init", "init_classes", "best"),
    *("layer_groups", "network.head_init_scale", "network.freeze"),
)
DEFAULT_IMAGE_SIZE = 224
TIMM = "timm:"  # before the name of a network of timm's
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
POLICY_CHANNELS = (1, 3)  # of the images that timm's policies and torchvision's colour jitter are for


@dataclass
class NetworkConfig:
    """The network, beside its name. Where --init gives weights, what is left open here is theirs.

    Args:
        in_chans: channels of the images
        stem_stride: side of the stem's patches: 4, 2 or 1
        depths: blocks of each stage, where they are not the model's own
        dims: channels of each stage, where they are not the model's own
        drop_path_rate: drop path of the last block; it grows linearly from 0
        head_init_scale: factor on the first weights of the head
        freeze: stages, from the first, that stay as they are, without drop path: 0 to 4, where 4 trains the
            head and the norm before it
        grad_checkpointing: compute the widest activations again for the gradient: slower, far less memory
    """

    in_chans: int | None = None
    stem_stride: int | None = None
    depths: tuple[int, int, int, int] | None = None
    dims: tuple[int, int, int, int] | None = None
    drop_path_rate: float = 0.0
    head_init_scale: float = 0.001
    freeze: int = 0
    grad_checkpointing: bool = False


@dataclass
class AugmentConfig:
    """Augmentation beyond crops and flips, as timm does it.

    Args:
        auto_augment: timm's string of RandAugment (rand-m9-mstd0.5-inc1), AutoAugment (v0) or AugMix; auto is
            that RandAugment for images of 1 or 3 channels, and nothing for others
        color_jitter: largest change of brightness, contrast and saturation
        erase: probability of random erasing
        erase_mode: fill with zeros, with one random colour, or with a random colour for each pixel
        erase_count: largest number of erased rectangles in an image
        mixup: alpha of mixup; 0 mixes nothing
        cutmix: alpha of CutMix; 0 cuts nothing
        mix_prob: probability of mixing a batch at all
        mix_switch: probability of CutMix where both are on
        mix_mode: mix a whole batch alike, or each pair or image in its own way
        label_smoothing: fraction of the target that is spread over all classes
    """

    auto_augment: str | None = RAND_AUGMENT
    color_jitter: float = 0.0
    erase: float = 0.25
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    erase_count: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    mix_mode: Literal["batch", "pair", "elem"] = "batch"
    label_smoothing: float = 0.1

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class FinetuneConfig:
    """What to train on which labels, and how long.

    Args:
        data: folder with train/ and val/, or one folder a class; tar archives or shards; whatever else
            docs/data.md names; digits, the built-in ones; cifar10, cifar100 or timm:NAME of timm's factory
        data_root: where a data set given by name lies, or is downloaded to
        val_fraction: fraction of a single tree that is kept for validation
        train_fraction: fraction of the training images to use, of each class
        init: weights to start from: the folder of a run, a file (FILE#NAME chooses one of several networks in
            it), or a name such as timm:convnextv2_tiny.fcmae, hf:OWNER/REPOSITORY or
            official:convnextv2_tiny_fcmae; by default the start is from scratch
        init_classes: text file of the names of the classes of --init's head, one a line, where the weights do
            not say them: classes of the same name in the data keep their rows
        model: a name that `fcmae info` lists, or timm:NAME; by default that of --init, or convnextv2_atto
        image_size: side in pixels, or [height, width]; by default that of --init, or 224
        crop_pct: fraction of the short side that evaluation crops, below 384 pixels
        epochs: passes over the data
        batch_size: images of one optimiser step, over all processes and accumulation steps
        layer_decay: factor on the learning rate from one layer to the layer below
        layer_groups: what a layer is: each block (single), or up to three blocks in a row (group)
        ema_decay: decay of a moving average of the weights, measured beside them; by default there is none
        balance: for skewed classes, weights in the loss or rarer images drawn more often
        best: metric that chooses the weights to keep: loss, or one that evaluation logs, such as ema_top1
        patience: stop after this many epochs without a new best; by default never
        seed: of weights, splits, order, augmentation and mixing
        device: auto, cpu, cuda, cuda:N or mps
        out: run folder, by default runs/finetune-<data>-<model>
        change: go on with the run in --out though settings differ, and tell which
        network: the network, beside its name
        augment: augmentation beyond crops and flips
        optim: optimiser and schedule
        images: reading and augmenting images
        loop: precision, logging and checkpoints
    """

    data: list[str] | str = "digits"
    data_root: str = "data"
    val_fraction: float = VAL_FRACTION
    train_fraction: float = 1.0
    init: str | None = None
    init_classes: str | None = None
    model: str | None = None
    image_size: int | tuple[int, int] | None = None
    crop_pct: float = CROP_PCT
    epochs: int = 100
    batch_size: int = 64
    layer_decay: float = 1.0
    layer_groups: Literal["single", "group"] = "single"
    ema_decay: float | None = None
    balance: Literal["none", "loss", "sampler"] = "none"
    best: str = "top1"
    patience: int | None = None
    seed: int = 0
    device: str = "auto"
    out: str | None = None
    change: bool = False
    network: NetworkConfig = field(default_factory=NetworkConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(base_lr=2e-4, betas=(0.9, 0.999)))
    images: ImagesConfig = field(default_factory=lambda: ImagesConfig(crop_scale=(0.08, 1.0)))
    loop: LoopConfig = field(default_factory=LoopConfig)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, once `fcmae.finetune.resolve` has resolved the settings."""
        return pair(self.image_size or DEFAULT_IMAGE_SIZE)

    @property
    def in_chans(self) -> int:
        """Channels of the images, once the settings are resolved."""
        return self.network.in_chans or 3

    @property
    def keeps_averaged(self) -> bool:
        """Whether the weights to keep are the moving average, whose metrics begin with ema_."""
        return self.best.startswith("ema_")


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a size that may be given as one side."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
