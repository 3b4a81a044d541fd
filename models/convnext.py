"""ConvNeXt V1 (Liu et al., arXiv 2201.03545) and V2 (Woo et al., arXiv 2301.00808), for every layout.

Parameters carry the names of the authors' public state dicts. Activations have their channels last.

Shapes: B batch, C channels, H W positions of an image or map; (..., C) positions as the layout keeps them.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from fcmae.core.errors import UserError
from fcmae.models.block import Block, GRNScope, LayerNorm, init_weights
from fcmae.models.features import FeatureInfo, take_indices
from fcmae.models.geometry import stage_strides
from fcmae.models.kernels.plain import tracing_torchscript
from fcmae.models.layouts.base import Layout
from fcmae.models.layouts.dense import DenseLayout
from fcmae.models.sizes import Size, find_size

fx.wrap("check_images")  # torch.fx sees it as an operation


class Downsampling(nn.Conv2d):
    """A convolution whose stride is its kernel size, as a layout does it; called as `DepthwiseConv` is."""

    def forward(self, x: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        """Convolve positions (..., C) of that layout to fewer (..., C')."""
        return layout.downsample(x, self)


class ConvNeXt(nn.Module):
    """ConvNeXt V1 or V2: forward gives logits, pooled features or stage maps.

    Args:
        size: blocks and widths, of V1 or V2
        num_classes: rows of the head; 0 leaves the head out, and forward gives pooled, normalised features
        in_chans: channels of the images
        stem_stride: side and stride of the stem's patches: 4, 2 or 1 for a total stride of 32, 16 or 8
        drop_path_rate: probability that an image skips the last block; it grows linearly from 0
        grn_scope: positions of GRN's norm, as for GRN
        features_only: no norm and head; forward gives the maps of the stages
        out_indices: with features_only, the stages whose maps are given, from 0; later ones are left out
        head_init_scale: factor on the initial weights of the head
        grad_checkpointing: compute wide activations again for the gradient, as for Block

    Attributes:
        stem_stride: side and stride of the stem's patches
        stride: pixels to a position of the last map, in both directions
        num_features: channels of the last map
        feature_info: channels and stride of each stage, under timm's names

    Raises:
        UserError: there is no such stem
    """

    def __init__(
        self,
        size: Size,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        stem_stride: int = 4,
        drop_path_rate: float = 0.0,
        grn_scope: GRNScope = "image",
        features_only: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        head_init_scale: float = 1.0,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.out_indices = take_indices(4, out_indices if features_only else None)
        count = max(self.out_indices) + 1
        depths, dims, strides = size.depths[:count], size.dims[:count], stage_strides(stem_stride)[:count]
        self.in_chans, self.num_classes, self.features_only = in_chans, num_classes, features_only
        self.num_features = self.head_hidden_size = dims[-1]
        self.stem_stride, self.stride = stem_stride, strides[-1]
        self.global_pool = "avg"
        self.feature_info = FeatureInfo(
            [
                {"num_chs": dim, "reduction": stride, "module": f"stages.{stage}"}
                for stage, (dim, stride) in enumerate(zip(dims, strides, strict=True))
            ],
            self.out_indices,
        )
        stem = Downsampling(in_chans, dims[0], kernel_size=stem_stride, stride=stem_stride)
        self.downsample_layers = nn.ModuleList([nn.ModuleList([stem, LayerNorm(dims[0], eps=1e-6)])])
        for narrow, wide in itertools.pairwise(dims):
            conv = Downsampling(narrow, wide, kernel_size=2, stride=2)
            self.downsample_layers.append(nn.ModuleList([LayerNorm(narrow, eps=1e-6), conv]))
        rates = (drop_path_rate * i / max(sum(size.depths) - 1, 1) for i in range(sum(size.depths)))
        self.stages = nn.ModuleList(
            nn.ModuleList(
                Block(dim, next(rates), size.layer_scale, grn_scope, grad_checkpointing) for _ in range(depth)
            )
            for depth, dim in zip(depths, dims, strict=True)
        )
        if not features_only:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.head = make_head(dims[-1], num_classes)
        self.apply(init_weights)
        if not features_only and isinstance(self.head, nn.Linear):
            self.head.weight.data.mul_(head_init_scale)

    def forward_stages(self, images: Tensor, layout: Layout | None = None) -> list[Tensor]:
        """Return the map after each stage: images (B, C, H, W) to (B, C', H', W') each, zero where hidden.

        Args:
            images: of any height and width from the stride on; under a mask, of its patches
            layout: where positions are; by default everywhere

        Raises:
            UserError: images of other channels, types or sizes
        """
        check_images(images, self.in_chans, self.stride, layout)
        layout = layout or DenseLayout()
        x, maps = layout.enter(images), []
        for stage in range(len(self.stages)):
            x = self._forward_stage(stage, x, layout)
            maps.append(layout.to_map(x))
        return maps

    def forward_features(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        """Return the last stage's map before pooling and norm: (B, C', H // stride, W // stride).

        Args, Raises: as `forward_stages`
        """
        check_images(images, self.in_chans, self.stride, layout)
        layout = layout or DenseLayout()
        x = layout.enter(images)
        for stage in range(len(self.stages)):
            x = self._forward_stage(stage, x, layout)
        return layout.to_map(x)

    def _forward_stage(self, stage: int, x: Tensor, layout: Layout) -> Tensor:
        """Run one stage, its downsampling first: positions (..., C) to (..., C')."""
        convolution = 0 if stage == 0 else 1  # the stem has its norm last, the others first
        for place, layer in enumerate(self.downsample_layers[stage].children()):
            x = layer(x, layout) if place == convolution else layer(x)
        for block in self.stages[stage].children():
            x = block(x, layout)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the last map (B, C', H', W') and classify it: (B, num_classes).

        Args:
            x: from `forward_features`
            pre_logits: leave the head out: (B, C'), pooled and normalised
        """
        x = x.permute(0, 2, 3, 1)
        x = self.norm(x.mean((1, 2)) if self.global_pool else x)
        x = x if pre_logits else self.head(x)
        return x if self.global_pool else x.permute(0, 3, 1, 2)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Return logits (B, num_classes); features (B, C') without a head; maps with `features_only`.

        Args, Raises: as `forward_stages`
        """
        if self.features_only:
            maps = self.forward_stages(images)
            return [maps[index] for index in self.out_indices]
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last map and those of some stages, as timm's networks do.

        Args:
            images: (B, C, H, W)
            indices: the last so many stages, or their numbers; by default all
            norm: of no effect, as in timm: no norm follows a stage
            stop_early: leave out the stages after the last that is asked for
            output_fmt: NCHW, the only one there is
            intermediates_only: return the stages' maps alone

        Raises:
            UserError: a stage or a format that there is not, or images of other channels, types or sizes
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt {output_fmt!r}: maps come as NCHW")
        wanted = take_indices(len(self.stages), indices)
        check_images(images, self.in_chans, self.stride, None)
        layout, maps = DenseLayout(), []
        x = layout.enter(images)
        for stage in range(max(wanted) + 1 if stop_early else len(self.stages)):
            x = self._forward_stage(stage, x, layout)
            if stage in wanted:
                maps.append(layout.to_map(x))
        return maps if intermediates_only else (layout.to_map(x), maps)

    def get_classifier(self) -> nn.Module:
        """Return the head, as timm's networks do.

        Raises:
            UserError: the network gives maps, and has no head
        """
        if self.features_only:
            raise UserError("a network with features_only has no classifier")
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a fresh head, as timm's networks have it.

        Args:
            num_classes: rows of the head; 0 leaves it out
            global_pool: avg, or an empty string for maps that are not pooled; by default as it was

        Raises:
            UserError: the network gives maps, and has no head; or another pooling
        """
        if self.features_only:
            raise UserError("a network with features_only has no classifier to reset")
        if global_pool not in (None, "", "avg"):
            raise UserError(f"global_pool {global_pool!r}: choose avg, or '' for none")
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        head = make_head(self.num_features, num_classes).apply(init_weights)
        self.head = head.to(self.norm.weight.device, self.norm.weight.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Let blocks compute their widest activations again for the gradient, or keep them."""
        for stage in self.stages.children():
            for block in stage.children():
                block.grad_checkpointing = enable  # type: ignore[assignment]

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that are not decayed although they have more than one dimension: GRN's."""
        return {name for name, _ in self.named_parameters() if ".grn." in name}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that sort parameters into layers, for timm's layer-wise decay.

        Args:
            coarse: by stages, not by blocks
        """
        if coarse:
            return {"stem": r"^downsample_layers\.0\.", "blocks": r"^(?:stages|downsample_layers)\.(\d+)"}
        blocks: list[tuple[str, tuple[int] | None]] = [
            (r"^downsample_layers\.(\d+)", (0,)),
            (r"^stages\.(\d+)\.(\d+)", None),
        ]
        return {"stem": r"^downsample_layers\.0\.", "blocks": blocks}


def check_images(images: Tensor, channels: int, stride: int, layout: Layout | None) -> None:
    """Refuse images that a network cannot take.

    Args:
        images: what it is given
        channels, stride: of the network
        layout: what it runs in; by default the dense one

    Raises:
        UserError: another number of dimensions or channels, pixels that are no floats, images smaller than
            the stride, or images that are not those of the layout's mask
    """
    if images.ndim != 4:
        raise UserError(f"images of {images.ndim} dimensions: give a batch (B, C, H, W)")
    if not images.is_floating_point():
        raise UserError(
            f"images are {str(images.dtype).removeprefix('torch.')}: make them floats and normalise them, as "
            "fcmae.data.transforms.to_float does"
        )
    if tracing_torchscript():  # sizes are left to the operations
        return
    if images.shape[1] != channels:
        raise UserError(f"images have {images.shape[1]} channels, the network takes {channels}")
    height, width = images.shape[2:]
    if height < stride or width < stride:
        raise UserError(
            f"images of {height} x {width} are smaller than the network's stride {stride}: enlarge them, or "
            "choose a smaller stem_stride"
        )
    if layout is not None:
        layout.check_images(images, stride)


def make_head(num_features: int, num_classes: int) -> nn.Module:
    """Return a linear layer to the classes; for 0 of them, features go out as they come in."""
    return nn.Linear(num_features, num_classes) if num_classes > 0 else nn.Identity()


def create_model(
    name: str,
    *,
    depths: tuple[int, int, int, int] | None = None,
    dims: tuple[int, int, int, int] | None = None,
    **options: Any,
) -> ConvNeXt:
    """Make a ConvNeXt with fresh weights.

    Args:
        name: one of `list_models()`; it says V1 or V2, and the size
        depths: blocks of each stage; by default those of the size
        dims: channels of each stage; by default those of the size
        **options: of ConvNeXt (num_classes, in_chans, stem_stride, drop_path_rate, features_only and so on)

    Raises:
        UserError: unknown name, a stem stride other than 4, 2 or 1, or depths or dims that are not four
            numbers of at least 1
    """
    size = find_size(name)
    blocks, widths = tuple(depths or size.depths), tuple(dims or size.dims)
    size = replace(size, depths=blocks, dims=widths)  # type: ignore[arg-type]  # four, or Size refuses
    return ConvNeXt(size, **options)
