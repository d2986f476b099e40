"""A conditional GAN (arXiv 1411.1784) G(z, y) of flat images in [0, 1].

``Unconditional`` is the few lines that a user writes to draw from all labels: latents [74] whose last ten
numbers choose the label.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class ConditionalGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(10, 16)
        self.l1, self.b1 = nn.Linear(64 + 16, 256), nn.BatchNorm1d(256)
        self.l2, self.b2 = nn.Linear(256, 512), nn.BatchNorm1d(512)
        self.l3 = nn.Linear(512, 784)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        h = torch.cat((self.label_emb(labels), noise), -1)
        h = nnf.leaky_relu(self.b1(self.l1(h)), 0.2)
        return torch.sigmoid(self.l3(nnf.leaky_relu(self.b2(self.l2(h)), 0.2)))


class Unconditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.G = ConditionalGenerator()

    def forward(self, z: Tensor) -> Tensor:
        return self.G(z[:, :64], z[:, 64:].argmax(1))


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label_emb = nn.Embedding(10, 256)
        self.body = nn.Sequential(
            nn.Linear(784, 384), nn.LeakyReLU(0.2), nn.Linear(384, 256), nn.LeakyReLU(0.2)
        )
        self.head = nn.Linear(256, 1)

    def forward(self, img: Tensor, labels: Tensor) -> Tensor:
        h = self.body(img)
        return self.head(h) + (self.label_emb(labels) * h).sum(1, keepdim=True) / 16


def train(images: Tensor, labels: Tensor, steps: int = 6_000) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1] and labels; return the averaged generator behind latents [74]."""
    x, whole, D = images.flatten(1), Unconditional(), Discriminator()
    G = whole.G
    average = copy.deepcopy(whole)
    opt_G = torch.optim.Adam(G.parameters(), lr=4e-4, betas=(0.0, 0.99))
    opt_D = torch.optim.Adam(D.parameters(), lr=4e-4, betas=(0.0, 0.99))
    for step in range(steps):
        for opt in (opt_G, opt_D):
            opt.param_groups[0]["lr"] = 4e-4 * min(1.0, 2 - 2 * step / steps)
        rows = torch.randint(len(x), (64,))
        real, y = x[rows].requires_grad_(True), labels[rows]
        fake = G(torch.randn(64, 64), y)
        score = D(real, y)
        loss = nnf.softplus(-score).mean() + nnf.softplus(D(fake.detach(), y)).mean()
        if step % 8 == 0:
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            loss = loss + 8 * 0.5 * slope.square().sum(1).mean()
        opt_D.zero_grad()
        loss.backward()
        opt_D.step()
        opt_G.zero_grad()
        nnf.softplus(-D(fake, y)).mean().backward()
        opt_G.step()
        with torch.no_grad():
            for slow, fast in zip(average.state_dict().values(), whole.state_dict().values(), strict=True):
                slow.copy_(fast) if slow.dtype == torch.long else slow.lerp_(fast, 0.003)
    return average
