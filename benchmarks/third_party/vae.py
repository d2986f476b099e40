"""A variational autoencoder (arXiv 1312.6114): a decoder of 20 normal latents to flat images in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc3 = nn.Linear(20, 400)
        self.fc4 = nn.Linear(400, 784)

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(nnf.relu(self.fc3(z))))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 400)
        self.fc21 = nn.Linear(400, 20)
        self.fc22 = nn.Linear(400, 20)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h1 = nnf.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)


def train(images: Tensor, labels: Tensor, epochs: int = 20) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1]; return the decoder."""
    x = images.flatten(1)
    encoder, decoder = Encoder(), Decoder()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            mu, logvar = encoder(x[rows])
            recon = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
            bce = nnf.binary_cross_entropy(recon, x[rows], reduction="sum")
            kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
            optimizer.zero_grad()
            (bce + kld).backward()
            optimizer.step()
    return decoder
