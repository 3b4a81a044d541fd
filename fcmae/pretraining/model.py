"""FCMAE: the fully convolutional masked autoencoder of ConvNeXt V2 (Woo et al., arXiv 2301.00808).

Shapes: B batch, C channels, H W pixels, P patch side (the encoder's stride), L = h * w patches,
D decoder width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcmae.core.errors import UserError
from fcmae.models.block import Block, init_weights
from fcmae.models.convnext import check_images, create_model
from fcmae.models.encoder import check_encoder
from fcmae.models.geometry import count_visible, patch_grid
from fcmae.models.kernels.depthwise import as_stored
from fcmae.models.kernels.selftest import Example
from fcmae.models.layouts import find_layout
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.mask import Mask
from fcmae.pretraining.masking import patchify, random_mask, unpatchify


class PointwiseConv(nn.Conv2d):
    """A convolution of one by one, the gradient of whose weight has the weight's strides."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W) to (B, C', H, W)."""
        return F.conv2d(x, as_stored(self.weight), self.bias)


class FCMAE(nn.Module):
    """A sparse encoder, a light dense decoder, and the loss on hidden patches.

    Args:
        encoder: a name of `fcmae.list_models()`, or a network (`fcmae.models.encoder.Encoder`)
        image_size: pixels, a side or (height, width); multiples of the encoder's stride
        mask_ratio: fraction of the patches that is hidden
        layout: how the encoder runs, with equal results: a name of `fcmae.models.layouts.LAYOUTS`
        decoder_depth: ConvNeXt V2 blocks of the decoder
        decoder_dim: their width, D
        norm_pix_loss: normalise each target patch by its own mean and variance
        **encoder_options: of `fcmae.create_model` (in_chans, stem_stride, depths, dims, drop_path_rate,
            grn_scope, grad_checkpointing), where the encoder is a name

    Raises:
        UserError: unknown encoder, stem or layout, a network that is no encoder, an image size that the
            stride does not divide, or a mask ratio that is outside (0, 1) or hides everything or nothing
    """

    def __init__(
        self,
        encoder: str | nn.Module = "convnextv2_pico",
        image_size: int | tuple[int, int] = 224,
        mask_ratio: float = 0.6,
        layout: str = "tiles",
        decoder_depth: int = 1,
        decoder_dim: int = 512,
        norm_pix_loss: bool = True,
        **encoder_options: Any,
    ) -> None:
        super().__init__()
        has_name = isinstance(encoder, str)
        if encoder_options and not has_name:
            raise UserError(f"{', '.join(encoder_options)}: an encoder that is made already takes no options")
        if isinstance(encoder, str):
            encoder = create_model(encoder, features_only=True, **encoder_options)
        known = check_encoder(encoder)
        self.encoder: Any = encoder  # as a module
        self.layout, self.norm_pix_loss = find_layout(layout), norm_pix_loss
        self.in_chans = known.in_chans
        self.patch_size = known.stride
        self.grid = patch_grid(image_size, self.patch_size, any_stem=has_name)
        self.image_size = (self.grid[0] * self.patch_size, self.grid[1] * self.patch_size)
        self.num_visible = count_visible(self.grid[0] * self.grid[1], mask_ratio)

        self.proj = PointwiseConv(known.num_features, decoder_dim, kernel_size=1)
        self.mask_token = nn.Parameter(torch.zeros(1, decoder_dim, 1, 1))
        self.decoder = nn.ModuleList(Block(decoder_dim) for _ in range(decoder_depth))
        self.pred = PointwiseConv(decoder_dim, self.patch_size**2 * self.in_chans, kernel_size=1)
        for module in (self.proj, self.decoder, self.pred):
            module.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        images: Tensor,
        mask: Mask | Tensor | None = None,
        generator: torch.Generator | None = None,
        there: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hide patches, encode the others, predict the hidden ones.

        Args:
            images: (B, C, H, W) of `image_size`
            mask: of these images, or (B, L) with 1 where a patch is hidden; by default drawn at the ratio
            generator: draws the mask; by default torch's own on the CPU
            there: bool (B, C, H, W), false where nothing was measured: such values are seen as 0, and neither
                asked for nor part of a patch's statistics; by default all are there

        Returns:
            loss (), prediction (B, P * P * C, h, w), and the mask (B, L), 1 where a patch is hidden

        Raises:
            UserError: as for `encode`
        """
        if mask is None:
            mask = random_mask(len(images), self.grid, self.num_visible, generator)
        if isinstance(mask, Tensor):
            mask = Mask.from_hidden(mask, self.grid)
        mask = mask.to(images.device)
        if there is not None:
            images = images.masked_fill(~there, 0.0)
        hidden = mask.hidden
        prediction = self.decode(self.encode(images, mask), hidden)
        return self.loss(images, prediction, hidden, there), prediction, hidden

    def encode(self, images: Tensor, mask: Mask) -> Tensor:
        """Return the encoder's map (B, C', h, w), zero at hidden patches.

        Args:
            images: (B, C, H, W) of `image_size`
            mask: of these images

        Raises:
            UserError: images of other channels or types or not of `image_size`, a mask that is not of these
                images or hides everything or nothing, or an encoder that the layout cannot run or that does
                not give the map that it announces
        """
        check_images(images, self.in_chans, self.patch_size, None)
        if tuple(images.shape[2:]) != self.image_size:
            raise UserError(f"images of {tuple(images.shape[2:])}, not of image_size {self.image_size}")
        if mask.grid != self.grid or len(mask.visible) != len(images):
            raise UserError(
                f"a mask of {len(mask.visible)} images of {mask.grid[0]} x {mask.grid[1]} patches, "
                f"not of {len(images)} of {self.grid[0]} x {self.grid[1]}"
            )
        visible, patches = mask.visible.shape[1], self.grid[0] * self.grid[1]
        if not 0 < visible < patches:
            raise UserError(
                f"a mask with {visible} of {patches} patches visible: at least one has to be hidden, and at "
                "least one seen"
            )
        encoded: Tensor = self.encoder.forward_features(images, self.layout(mask))
        announced = (len(images), self.encoder.num_features, *self.grid)
        if encoded.shape != announced:
            raise UserError(
                f"{type(self.encoder).__name__} gives a map {tuple(encoded.shape)}, and announces "
                f"{announced} by its num_features and stride: correct them"
            )
        return encoded

    def decode(self, encoded: Tensor, hidden: Tensor) -> Tensor:
        """Predict patches: (B, C', h, w) to (B, P * P * C, h, w), with the mask token where they are hidden.

        Args:
            encoded: the encoder's map
            hidden: (B, L), not zero where a patch is hidden
        """
        x = self.proj(encoded)
        is_hidden = hidden.view(-1, 1, *self.grid) != 0
        layout = DenseLayout()
        x = layout.enter(torch.where(is_hidden, self.mask_token.to(x.dtype), x))
        for block in self.decoder:
            x = block(x, layout)
        prediction: Tensor = self.pred(layout.to_map(x))
        return prediction

    def loss(self, images: Tensor, prediction: Tensor, hidden: Tensor, there: Tensor | None = None) -> Tensor:
        """Return the mean squared error on hidden patches, (), in float32 or better.

        Where values are missing, a patch's error is the mean over those that are there, an image's that of
        its hidden patches with data, and the loss that of the images: it stays the same however a batch is
        cut, and an image that nothing can be asked of adds 0.

        Args:
            images: (B, C, H, W)
            prediction: (B, P * P * C, h, w)
            hidden: (B, L), 1 where a patch is hidden and 0 elsewhere
            there: bool (B, C, H, W), false where the images have no data, and are 0; by default nowhere
        """
        target = patchify(images, self.patch_size)
        known = None if there is None else patchify(there.to(target.dtype), self.patch_size)
        if self.norm_pix_loss:
            mean, std = patch_statistics(target, known)
            target = (target - mean) / std
        error = (prediction.flatten(2).transpose(1, 2) - target).square()
        if known is None:
            return (error.mean(-1) * hidden).sum() / hidden.sum().clamp(min=1)  # of no images, none
        count = known.sum(-1)
        asked = hidden * (count > 0)
        by_patch = (error * known).sum(-1) / count.clamp(min=1)
        by_image = (by_patch * asked).sum(-1) / asked.sum(-1).clamp(min=1)
        return by_image.sum() / max(len(images), 1)

    def reconstruct(
        self, images: Tensor, prediction: Tensor, hidden: Tensor, there: Tensor | None = None
    ) -> Tensor:
        """Return pictures (B, C, H, W): visible pixels as they are, hidden patches as predicted.

        The per-patch normalisation is undone with each hidden patch's own mean and standard deviation, which
        the network never saw: a picture shows what it knows of the structure, not of brightness and contrast.

        Args:
            images, prediction, hidden, there: as for `loss`
        """
        target = patchify(images, self.patch_size)
        known = None if there is None else patchify(there.to(target.dtype), self.patch_size)
        patches = prediction.flatten(2).transpose(1, 2).to(target.dtype)
        if self.norm_pix_loss:
            mean, std = patch_statistics(target, known)
            patches = patches * std + mean
        patches = torch.where(hidden[..., None] != 0, patches, target)
        return unpatchify(patches, self.patch_size, self.image_size)

    def examples(self) -> list[Example]:
        """Return modules and arguments without data whose forward passes call all kernels of a step.

        Where the layout needs data, these are the decoder's blocks alone.
        """
        if self.layout.needs_data:
            x = torch.empty(1, *self.grid, self.proj.out_channels, device="meta")
            return [(block, (x, DenseLayout())) for block in self.decoder]
        images = torch.empty(1, self.in_chans, *self.image_size, device="meta")
        visible = torch.empty(1, self.num_visible, dtype=torch.int64, device="meta")
        return [(self, (images, Mask(visible, self.grid)))]


def patch_statistics(patches: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, two (B, L, 1), of patches; 1e-6 is in the variance.

    Args:
        patches: (B, L, N)
        known: (B, L, N), 1 where a value is there and 0 where it is not, and is 0; by default all are there
    """
    if known is None:
        return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    count = known.sum(-1, keepdim=True)
    mean = patches.sum(-1, keepdim=True) / count.clamp(min=1)
    squares = ((patches - mean).square() * known).sum(-1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1) + 1e-6).sqrt()
