"""An MLP GAN: 64 normal latents -> flat images [784] in [-1, 1]; batch norm, averaged weights.

Digits are drawn unevenly: one of them is a third of the training samples.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from third_party.data import unbalance


class Generator(nn.Module):
    def __init__(self, latent_dim: int = 64, img_size: int = 784) -> None:
        super().__init__()

        def block(in_feat: int, out_feat: int) -> list[nn.Module]:
            return [nn.Linear(in_feat, out_feat), nn.BatchNorm1d(out_feat), nn.LeakyReLU(0.2, inplace=True)]

        self.model = nn.Sequential(
            *block(latent_dim, 256), *block(256, 512), nn.Linear(512, img_size), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z)


class Discriminator(nn.Module):
    """An MLP whose last layer also reads the spread of each batch of 8, against mode collapse."""

    def __init__(self, img_size: int = 784) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(img_size, 384), nn.LeakyReLU(0.2), nn.Linear(384, 256), nn.LeakyReLU(0.2)
        )
        self.head = nn.Linear(257, 1)

    def forward(self, img: Tensor) -> Tensor:
        h = self.body(img)
        spread = h.reshape(-1, 8, 256).std(1).mean(1).repeat_interleave(8)
        return self.head(torch.cat([h, spread[:, None]], 1))


def train(images: Tensor, labels: Tensor, steps: int = 7_000, digit: int = 3) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1]; return the averaged generator."""
    x = 2 * images.flatten(1) - 1
    weights = unbalance(labels, digit, 1 / 3)
    G, D = Generator(), Discriminator()
    average = copy.deepcopy(G)
    opt_G = torch.optim.Adam(G.parameters(), lr=4e-4, betas=(0.0, 0.99))
    opt_D = torch.optim.Adam(D.parameters(), lr=4e-4, betas=(0.0, 0.99))
    for step in range(steps):
        for opt in (opt_G, opt_D):
            opt.param_groups[0]["lr"] = 4e-4 * min(1.0, 2 - 2 * step / steps)
        real = x[torch.multinomial(weights, 64, replacement=True)].requires_grad_(True)
        fake = G(torch.randn(64, 64))
        score = D(real)
        loss = nnf.softplus(-score).mean() + nnf.softplus(D(fake.detach())).mean()
        if step % 8 == 0:
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            loss = loss + 8 * 0.5 * slope.square().sum(1).mean()
        opt_D.zero_grad()
        loss.backward()
        opt_D.step()
        opt_G.zero_grad()
        nnf.softplus(-D(fake)).mean().backward()
        opt_G.step()
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), G.state_dict().values(), strict=True):
                slow.copy_(fast) if slow.dtype == torch.long else slow.lerp_(fast, 0.003)
    return average
