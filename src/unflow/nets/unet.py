"""A small U-Net for images, safe under torch.func.jvp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from unflow.ground.errors import InputError
from unflow.nets.limits import check_options
from unflow.nets.mlp import TimeEmbedding, split_label


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(scale * conv(silu(norm(x))) + shift))), scale and shift from the times."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(min(8, channels_in), channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.times = nn.Linear(time_width, 2 * channels_out)
        self.norm2 = nn.GroupNorm(min(8, channels_out), channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return features [batch, channels_out, h, w]."""
        scale, shift = self.times(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(nnf.silu(self.norm1(x.contiguous())))
        h = self.norm2(h.contiguous()) * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.conv2(nnf.silu(h))
        return out


class UNet(nn.Module):
    """Residual blocks, down and up again, with skip connections; times enter as scales and shifts.

    Args:
        shape: (channels, height, width); height and width divisible by 2^(len(widths) - 1).
        widths: channels of each resolution, multiples of 8, finest first.
        num_times: number of time arguments after x.
        num_classes: classes of a label after the times, which enters as the times do; 0: none. The label
            num_classes, which is also used where no label is given, means no class.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] = (32, 64, 64),
        num_times: int = 1,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.config = {"net": "unet", "shape": list(shape), "widths": list(widths), "num_times": num_times}
        if num_classes:
            self.config["num_classes"] = num_classes
        check_options(self.config)
        channels, factor = shape[0], 2 ** (len(widths) - 1)
        if any(side % factor for side in shape[1:]) or any(width % 8 for width in widths):
            raise InputError(
                f"got shape={list(shape)} and widths={list(widths)} for a U-Net; expected a height and width "
                f"divisible by {factor}, and multiples of 8 as widths"
            )
        self.embed = TimeEmbedding()
        time_width = 4 * widths[0]
        self.times = nn.Sequential(nn.Linear(max(num_times, 1) * self.embed.width, time_width), nn.SiLU())
        self.num_times, self.num_classes = num_times, num_classes
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        fine, coarse = widths[:-1], widths[1:]
        self.down = nn.ModuleList(ResidualBlock(w, w, time_width) for w in fine)
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(fine, coarse, strict=True)
        )
        self.middle = ResidualBlock(widths[-1], widths[-1], time_width)
        self.grow = nn.ModuleList(
            nn.Conv2d(b, a, 1) for a, b in reversed(list(zip(fine, coarse, strict=True)))
        )
        self.up = nn.ModuleList(ResidualBlock(2 * w, w, time_width) for w in reversed(fine))
        self.norm = nn.GroupNorm(8, widths[0])
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)
        if num_classes:
            self.classes = nn.Embedding(num_classes + 1, time_width)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Return [batch, *shape] for x [batch, *shape], each time and the label [batch]."""
        times, label = split_label(x, conditions, self.num_times, self.num_classes)
        zeros = [x.new_zeros(len(x))] if self.num_times == 0 else []
        embedding = self.times(torch.cat([self.embed(t) for t in [*times, *zeros]], dim=1))
        if self.num_classes:
            embedding = embedding + self.classes(label)
        h = self.first(x)
        kept = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, embedding)
            kept.append(h)
            h = shrink(h)
        h = self.middle(h, embedding)
        for grow, block in zip(self.grow, self.up, strict=True):
            h = nnf.interpolate(grow(h), scale_factor=2.0, mode="nearest")
            h = block(torch.cat([h, kept.pop()], dim=1), embedding)
        out: Tensor = self.last(nnf.silu(self.norm(h.contiguous())))
        return out
