"""A small residual classifier, for photographs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.nets.limits import check_options


class ResNet(nn.Module):
    """Residual blocks (arXiv 1512.03385), each of which halves the image: [batch, c, h, w] -> logits.

    It uses BatchNorm: in training the statistics are those of each device's own rows, in evaluation mode they
    are fixed.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of classes.
        width: channels of the first convolution; doubled by every block.
        depth: blocks.
    """

    def __init__(self, shape: Sequence[int], outputs: int, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        self.config = {
            "net": "resnet",
            "shape": list(shape),
            "outputs": outputs,
            "width": width,
            "depth": depth,
        }
        check_options(self.config)
        widths = [width * 2**i for i in range(depth + 1)]
        self.stem = nn.Sequential(_conv(shape[0], width), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after) for before, after in itertools.pairwise(widths)
        )
        self.last = nn.Linear(widths[-1], outputs)
        # Faster convolutions on a CPU. PyTorch documents this call; its type stubs do not have it.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps [batch, channels, h, w] before and after each block, the finest first."""
        maps = [self.stem(x.contiguous(memory_format=torch.channels_last))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def features(self, x: Tensor) -> Tensor:
        """Return the means of the last maps, [batch, channels]."""
        return self.maps(x)[-1].mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, outputs]."""
        logits: Tensor = self.last(self.features(x))
        return logits


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one, the first of each with stride 2."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(before, after, stride=2),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            _conv(after, after),
            nn.BatchNorm2d(after),
        )
        self.skip = nn.Sequential(_conv(before, after, stride=2, size=1), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of half the size."""
        return nnf.relu(self.skip(x) + self.body(x))


def _conv(before: int, after: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2, bias=False)
