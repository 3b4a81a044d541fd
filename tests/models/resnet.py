"""A ResNet-18 (He et al., arXiv 1512.03385) that runs in a layout, with the parameter names of torchvision's.

Shapes: B batch, C channels, H W positions; (..., C) positions as the layout keeps them.
"""

from torch import Tensor, nn

from fcmae.models.layouts.base import Layout


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual, which a 1x1 convolution of stride 2 fits to a halved map."""

    def __init__(self, dim: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        shortcut = [nn.Conv2d(dim, out, 1, stride, bias=False), nn.BatchNorm2d(out)] if stride > 1 else []
        self.downsample = nn.ModuleList(shortcut)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        branch = layout.batch_norm(layout.convolve(x, self.conv1), self.bn1).relu()
        branch = layout.batch_norm(layout.convolve(branch, self.conv2), self.bn2)
        for layer in self.downsample:
            is_conv = isinstance(layer, nn.Conv2d)
            x = layout.convolve(x, layer) if is_conv else layout.batch_norm(x, layer)  # type: ignore[arg-type]
        return (branch + x).relu()


class ResNet18(nn.Module):
    """An encoder (`fcmae.models.encoder.Encoder`) whose strides overlap, with batch norm.

    Args:
        width: channels of the first stage
        in_chans: channels of the images
    """

    stride = 32

    def __init__(self, width: int = 64, in_chans: int = 3) -> None:
        super().__init__()
        self.in_chans, self.num_features = in_chans, 8 * width
        self.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.ModuleList([BasicBlock(width, width, 1), BasicBlock(width, width, 1)])
        self.layer2 = nn.ModuleList([BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1)])
        self.layer3 = nn.ModuleList(
            [BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1)]
        )
        self.layer4 = nn.ModuleList(
            [BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1)]
        )

    def forward_features(self, images: Tensor, layout: Layout) -> Tensor:
        """Return the last map: (B, C, H, W) to (B, C', H / 32, W / 32)."""
        x = layout.enter(images)
        x = layout.batch_norm(layout.convolve(x, self.conv1), self.bn1).relu()
        x = layout.pool(x, self.maxpool)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = block(x, layout)
        return layout.to_map(x)
