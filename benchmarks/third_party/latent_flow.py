"""A flow of an autoencoder's latents on Fashion-MNIST: 24 numbers, noise at t=0, times from 0 to 1000."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class Codec(nn.Module):
    """An autoencoder of images [1, 28, 28] in [-1, 1] and latents [24] of about unit variance."""

    shape = (1, 28, 28)
    latent_shape = (24,)
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(1568, 24),
        )
        self.dec = nn.Sequential(nn.Linear(24, 384), nn.SiLU(), nn.Linear(384, 784), nn.Tanh())
        self.register_buffer("mean", torch.zeros(24))
        self.register_buffer("std", torch.ones(24))

    def encode(self, x: Tensor) -> Tensor:
        return (self.enc(x) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.dec(latents * self.std + self.mean).reshape(-1, 1, 28, 28)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


class LatentVelocity(nn.Module):
    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(24 + 16, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 24),
        )

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        angles = timestep[:, None] / 1000 * 2.0 ** torch.arange(8, device=x.device, dtype=x.dtype)
        return self.net(torch.cat([x, angles.sin(), angles.cos()], 1))


def train_codec(images: Tensor, epochs: int = 6) -> Codec:
    """Train the autoencoder on images [n, 28, 28] in [0, 1]."""
    x, codec = 2 * images.unsqueeze(1) - 1, Codec()
    optimizer = torch.optim.Adam(codec.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            code = codec.encode(x[rows])
            optimizer.zero_grad()
            loss = nnf.mse_loss(codec.decode(code + 0.1 * torch.randn_like(code)), x[rows])
            (loss + 1e-3 * code.square().mean()).backward()
            optimizer.step()
    with torch.no_grad():
        codes = torch.cat([codec.encode(part) for part in x.split(1000)])
        codec.mean.copy_(codes.mean(0))
        codec.std.copy_(codes.std(0))
    return codec


def train(images: Tensor, labels: Tensor) -> dict[str, nn.Module]:
    """Train the autoencoder, then the flow, on images [n, 28, 28] in [0, 1]."""
    codec = train_codec(images)
    return {"": train_flow(codec, images), "_codec": codec}


def train_flow(codec: Codec, images: Tensor, steps: int = 12_000) -> nn.Module:
    """Train the flow on the codes of images [n, 28, 28] in [0, 1]; return the averaged network."""
    x, net = 2 * images.unsqueeze(1) - 1, LatentVelocity()
    with torch.no_grad():
        codes = torch.cat([codec.encode(part) for part in x.split(1000)])
    average = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x1, x0, t = codes[torch.randint(len(codes), (256,))], torch.randn(256, 24), torch.rand(256)
        x_t = (1 - t)[:, None] * x0 + t[:, None] * x1
        optimizer.zero_grad()
        nnf.mse_loss(net(x_t, 1000 * t), x1 - x0).backward()
        optimizer.step()
        schedule.step()
        for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.005)
    return average
