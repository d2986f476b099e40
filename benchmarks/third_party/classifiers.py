"""Two classifiers of different architecture, and an autoencoder whose code is a second set of features.

All of them read images in [0, 1]. The guide trains on half 0, the judge and the autoencoder on half 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class Guide(nn.Module):
    """A small LeNet: images [n, 1, 28, 28] -> ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(8, 24, 5, stride=2, padding=2)
        self.fc1 = nn.Linear(24 * 49, 96)
        self.fc2 = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = nnf.relu(self.conv2(nnf.relu(self.conv1(x))))
        return self.fc2(nnf.relu(self.fc1(h.flatten(1))))


class Judge(nn.Module):
    """A convolutional network with pooling: flat images [n, 784] -> ten logits."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

        self.features = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            *block(1, 20),
            *block(20, 40),
            *block(40, 64),
            nn.Flatten(),
            nn.Linear(576, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Autoencoder(nn.Module):
    """An MLP autoencoder of flat images [n, 784] with a code of 48 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 48))
        self.decode = nn.Sequential(nn.Linear(48, 256), nn.GELU(), nn.Linear(256, 784), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def jitter(x: Tensor) -> Tensor:
    """Return flat images shifted by up to 2 pixels, with noise."""
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    return (x.unflatten(1, (28, 28)).roll((dy, dx), (1, 2)).flatten(1) + 0.1 * torch.randn_like(x)).clamp(
        0, 1
    )


def distort(x: Tensor) -> Tensor:
    """Return flat images shifted, some of them pale or blurred, with noise of a random size.

    Generators draw pale and blurred digits, and a judge must not call all of them a 1.
    """
    n = len(x)
    image = x.reshape(n, 1, 28, 28)
    blurred = nnf.avg_pool2d(image, 3, 1, 1)
    image = torch.where(torch.rand(n, 1, 1, 1) < 0.4, blurred, image) * (0.4 + 0.6 * torch.rand(n, 1, 1, 1))
    noise = 0.2 * torch.rand(n, 1, 1, 1) * torch.randn_like(image)
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    return (image + noise).clamp(0, 1).roll((dy, dx), (2, 3)).flatten(1)


def fit_classifier(
    net: nn.Module,
    x: Tensor,
    labels: Tensor,
    epochs: int,
    lr: float,
    augment: Callable[[Tensor], Tensor] = jitter,
) -> None:
    """Train a classifier on images [n, ...] in [0, 1], flat while they are changed."""
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    steps = epochs * (-(-len(x) // 128))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            batch = augment(x[rows].flatten(1)).reshape(len(rows), *x.shape[1:])
            optimizer.zero_grad()
            nnf.cross_entropy(net(batch), labels[rows]).backward()
            optimizer.step()
            schedule.step()


def train_guide(images: Tensor, labels: Tensor, epochs: int = 4) -> nn.Module:
    """Train the guide on images [n, 28, 28] in [0, 1]."""
    net = Guide()
    fit_classifier(net, images.unsqueeze(1), labels, epochs, 3e-3)
    return net


def train_judge(images: Tensor, labels: Tensor, epochs: int = 4) -> nn.Module:
    """Train the judge on images [n, 28, 28] in [0, 1]."""
    net = Judge()
    fit_classifier(net, images.flatten(1), labels, epochs, 3e-3, distort)
    return net


def train_autoencoder(images: Tensor, labels: Tensor, epochs: int = 8) -> nn.Module:
    """Train the autoencoder on images [n, 28, 28] in [0, 1]."""
    x, net = images.flatten(1), Autoencoder()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            nnf.binary_cross_entropy(net(x[rows]), x[rows]).backward()
            optimizer.step()
    return net
