"""An MLP flow of images with a class label; label 10 is the null label.

Time runs from noise at 0 to images in [-1, 1] at 1. The network predicts the image x and trains on the loss
of the velocity (x - x_t) / (1 - t). A tenth of the labels is dropped in training.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.scale = nn.Linear(width, width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        return h + self.net(self.norm(h) * (1 + self.scale(c)))


class ImageMLP(nn.Module):
    def __init__(self, width: int = 256, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.classes, self.width = classes, width
        self.inp = nn.Linear(784, width)
        self.emb = nn.Embedding(classes + 1, width)
        self.time = nn.Linear(32, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.out = nn.Linear(width, 784)

    def forward(self, t: Tensor, x: Tensor, y: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(100), 16, device=x.device, dtype=x.dtype))
        angles = t[:, None] * frequencies
        c = nnf.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.emb(y))
        h = self.inp(x.flatten(1))
        for block in self.blocks:
            h = block(h, c)
        return torch.tanh(self.out(h)).reshape(x.shape)


def train(images: Tensor, labels: Tensor, steps: int = 4_000) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1] and labels; return the averaged network."""
    x1, net = 2 * images.unsqueeze(1) - 1, ImageMLP()
    average = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(x1), (128,))
        x, x0, t = x1[rows], torch.randn(128, 1, 28, 28), torch.rand(128)
        y = torch.where(torch.rand(128) < 0.1, 10, labels[rows])
        at = t[:, None, None, None]
        error = net(t, (1 - at) * x0 + at * x, y) - x
        loss = (error / (1 - at).clamp(min=0.1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        decay = min(0.995, (1 + step) / (10 + step))
        for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
            slow.data.lerp_(fast.data, 1 - decay)
    return average
