"""The settings of a pre-training run, and the checks that need neither data nor network."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from fcmae.core.errors import UserError
from fcmae.data.config import ImagesConfig
from fcmae.engine.config import FIXED_IN_ALL, VOLATILE_IN_ALL, LoopConfig, OptimConfig

VOLATILE = (*VOLATILE_IN_ALL, "pictures_every", "probe_data", "probe_every")
FIXED = (*FIXED_IN_ALL, "decoder.depth", "decoder.dim")


MOST_HELD_OUT, FEWEST_HELD_OUT = 256, 8
IMAGES_PER_HELD_OUT = 50


@dataclass
class EncoderConfig:
    """The encoder, beside its name.

    Args:
        in_chans: channels of the images; files with other channels are converted to 1 or 3
        stem_stride: side of the stem's patches: 4, 2 or 1 for mask patches of 32, 16 or 8 pixels
        depths: blocks of each stage; by default the model's own
        dims: channels of each stage; by default the model's own
        drop_path_rate: probability that an image skips the last block; it grows linearly from 0
        grn_scope: positions of GRN's norm; batch only reproduces the authors' sparse PyTorch code
        grad_checkpointing: compute the widest activations again for the gradient: slower, far less memory
    """

    in_chans: int = 3
    stem_stride: int = 4
    depths: tuple[int, int, int, int] | None = None
    dims: tuple[int, int, int, int] | None = None
    drop_path_rate: float = 0.0
    grn_scope: Literal["image", "batch"] = "image"
    grad_checkpointing: bool = False


@dataclass
class DecoderConfig:
    """The decoder.

    Args:
        depth: ConvNeXt V2 blocks
        dim: their width
    """

    depth: int = 1
    dim: int = 512


@dataclass
class PretrainAugmentConfig:
    """Augmentation beside crops, flips and turns; by default there is none.

    Args:
        color_jitter: largest change of brightness and contrast and, of 3 channels, saturation: 0 to 1
        grey: probability that an image of 3 channels is turned to grey
        blur: probability that an image is blurred, by 0.1 to 2 pixels
        channel_drop: probability that a channel is left out, seen as 0 and not asked for; one is always kept
    """

    color_jitter: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    channel_drop: float = 0.0

    def check(self, channels: int) -> None:
        """Refuse values that cannot be, or not for images of so many channels.

        Raises:
            UserError: names the setting, its value and the remedy
        """
        for name, value in asdict(self).items():
            if not 0 <= value <= 1:
                raise UserError(f"augment.{name} is {value:g}: it goes from 0, which turns it off, to 1")
        for name, fits, what in (("grey", channels == 3, "3"), ("channel_drop", channels > 1, "several")):
            if getattr(self, name) > 0 and not fits:
                raise UserError(
                    f"augment.{name} is for images of {what} channels, not {channels}: set it to 0"
                )


@dataclass
class PretrainConfig:
    """What to pre-train on what, and how long.

    Args:
        data: folder of images, any tree; tar archives or shards; whatever else docs/data.md names;
            digits, the built-in ones; cifar10, cifar100 or timm:NAME, whatever timm's dataset factory reads
        data_root: where a data set given by name lies, or is downloaded to
        init: weights to go on from: a run, a file, or a name such as timm:convnextv2_tiny.fcmae; by default
            the start is from scratch
        init_warmup: epochs in which the decoder learns alone after --init; by default a tenth of all where
            the weights bring none, else 0
        stage_decay: factor on the learning rate from a stage of the encoder to the one before it
        model: encoder, a name that `fcmae info` lists
        image_size: side in pixels, or [height, width]
        epochs: passes over the data
        batch_size: images of one optimiser step, over all processes and accumulation steps
        mask_ratio: fraction of the patches that is hidden
        layout: how the encoder runs on what is visible: tiles, masked or minkowski; the results agree
        norm_pix_loss: normalise each target patch by its own mean and variance
        seed: of weights, order, augmentation and masks
        device: auto, cpu, cuda, cuda:N or mps
        out: run folder; by default runs/<data>-<model>
        change: go on with the run in --out though settings differ, and tell which
        pictures_every: epochs between two pictures of reconstructions
        held_out: images that are not trained on, to measure the loss on; by default one of 50, at most 256,
            and none of fewer than 400
        probe_data: labelled images to watch the encoder by (k-NN on its frozen features): folder of classes,
            or one with train/ and val/, or a name as for `fcmae probe`; by default only what needs no labels
            is watched
        probe_every: epochs between two measurements of what the features are worth
        network: the encoder, beside its name
        decoder: the decoder
        optim: optimiser and schedule
        images: reading, cropping and mirroring images
        augment: augmentation beside that
        loop: precision, logging and checkpoints
    """

    data: list[str] | str = "digits"
    data_root: str = "data"
    init: str | None = None
    init_warmup: float | None = None
    stage_decay: float = 1.0
    model: str = "convnextv2_atto"
    image_size: int | tuple[int, int] = 224
    epochs: int = 100
    batch_size: int = 64
    mask_ratio: float = 0.6
    layout: str = "tiles"
    norm_pix_loss: bool = True
    seed: int = 0
    device: str = "auto"
    out: str | None = None
    change: bool = False
    pictures_every: int = 10
    held_out: int | None = None
    probe_data: list[str] | str | None = None
    probe_every: int = 10
    network: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    augment: PretrainAugmentConfig = field(default_factory=PretrainAugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def count_held_out(self, num_images: int) -> int:
        """Return how many of so many images are not trained on, to measure the loss on."""
        if self.held_out is not None:
            return self.held_out
        count = min(MOST_HELD_OUT, num_images // IMAGES_PER_HELD_OUT)
        return count if count >= FEWEST_HELD_OUT else 0

    def model_options(self) -> dict[str, Any]:
        """Return the arguments of FCMAE."""
        return {
            "encoder": self.model,
            "image_size": self.image_size,
            "mask_ratio": self.mask_ratio,
            "layout": self.layout,
            "decoder_depth": self.decoder.depth,
            "decoder_dim": self.decoder.dim,
            "norm_pix_loss": self.norm_pix_loss,
            **asdict(self.network),
        }
