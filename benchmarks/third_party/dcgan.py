"""A DCGAN (arXiv 1511.06434): latents [100, 1, 1] -> images [1, 28, 28] in [-1, 1]."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


def weights_init(m: nn.Module) -> None:
    if isinstance(m, nn.ConvTranspose2d | nn.Conv2d):
        nn.init.normal_(m.weight, 0.0, 0.02)
    elif isinstance(m, nn.BatchNorm2d):
        nn.init.normal_(m.weight, 1.0, 0.02)


class Generator(nn.Module):
    def __init__(self, nz: int = 100, ngf: int = 24, nc: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 4, 7, 1, 0, bias=False),
            nn.BatchNorm2d(ngf * 4),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 4, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.main(input)


class Discriminator(nn.Module):
    def __init__(self, ndf: int = 24, nc: int = 1) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 3, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 3),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 3, 1, 7, 1, 0),
            nn.Flatten(0),
        )

    def forward(self, input: Tensor) -> Tensor:
        return self.main(input)


def train(images: Tensor, labels: Tensor, epochs: int = 6) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1]; return the averaged generator."""
    x = 2 * images.unsqueeze(1) - 1
    netG, netD = Generator().apply(weights_init), Discriminator().apply(weights_init)
    average = copy.deepcopy(netG)
    optimizerD = torch.optim.Adam(netD.parameters(), lr=4e-4, betas=(0.5, 0.999))
    optimizerG = torch.optim.Adam(netG.parameters(), lr=4e-4, betas=(0.5, 0.999))
    criterion = nnf.binary_cross_entropy_with_logits
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            real = x[rows]
            fake = netG(torch.randn(len(rows), 100, 1, 1))
            ones, zeros = torch.full((len(rows),), 0.9), torch.zeros(len(rows))
            optimizerD.zero_grad()
            (criterion(netD(real), ones) + criterion(netD(fake.detach()), zeros)).backward()
            optimizerD.step()
            optimizerG.zero_grad()
            criterion(netD(fake), torch.ones(len(rows))).backward()
            optimizerG.step()
            with torch.no_grad():
                states = zip(average.state_dict().values(), netG.state_dict().values(), strict=True)
                for slow, fast in states:
                    slow.copy_(fast) if slow.dtype == torch.long else slow.lerp_(fast, 0.005)
    return average
