"""A small U-Net rectified flow whose time runs backwards: images at t=0, noise at t=1, v = noise - image."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class ResBlock(nn.Module):
    def __init__(self, cin: int, cout: int, emb: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, cin), nn.GroupNorm(4, cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.emb = nn.Linear(emb, cout)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(nnf.silu(self.norm1(x))) + self.emb(e)[:, :, None, None]
        return self.skip(x) + self.conv2(nnf.silu(self.norm2(h)))


class UNet(nn.Module):
    """Patches of 2 x 2 pixels; 14 x 14 and 7 x 7 resolutions. Times run from 0 to 1."""

    def __init__(self, ch: int = 24) -> None:
        super().__init__()
        emb = 4 * ch
        self.time = nn.Sequential(nn.Linear(32, emb), nn.SiLU(), nn.Linear(emb, emb), nn.SiLU())
        self.patch = nn.PixelUnshuffle(2)
        self.inp = nn.Conv2d(4, ch, 3, padding=1)
        self.down1 = ResBlock(ch, ch, emb)
        self.pool = nn.Conv2d(ch, 2 * ch, 3, stride=2, padding=1)
        self.mid1 = ResBlock(2 * ch, 2 * ch, emb)
        self.mid2 = ResBlock(2 * ch, 2 * ch, emb)
        self.mixing = nn.Linear(49, 49)
        self.up = nn.ConvTranspose2d(2 * ch, ch, 2, stride=2)
        self.up1 = ResBlock(2 * ch, ch, emb)
        self.out = nn.Sequential(nn.GroupNorm(4, ch), nn.SiLU(), nn.Conv2d(ch, 4, 3, padding=1))
        self.unpatch = nn.PixelShuffle(2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(100), 16, device=x.device, dtype=x.dtype))
        angles = t[:, None] * frequencies
        e = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        h1 = self.down1(self.inp(self.patch(x)), e)
        h2 = self.mid1(self.pool(h1), e)
        h2 = h2 + self.mixing(h2.flatten(2)).reshape(h2.shape)
        h2 = self.mid2(h2, e)
        h = self.up1(torch.cat([self.up(h2), h1], 1), e)
        return self.unpatch(self.out(h))


def train(images: Tensor, labels: Tensor, steps: int = 1_800) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1]; return the averaged network."""
    data, net = 2 * images.unsqueeze(1) - 1, UNet()
    average = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        x = data[torch.randint(len(data), (64,))]
        noise = torch.randn_like(x)
        t = torch.sigmoid(torch.randn(64))
        at = t[:, None, None, None]
        loss = nnf.mse_loss(net((1 - at) * x + at * noise, t), noise - x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        decay = min(0.995, (1 + step) / (10 + step))
        for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
            slow.data.lerp_(fast.data, 1 - decay)
    return average
