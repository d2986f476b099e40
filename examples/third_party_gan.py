"""A third-party GAN forgets a digit: a checkpoint and a classifier that know nothing of unflow.

    python examples/third_party_gan.py --out runs/gan

The first half stands for third-party code in plain PyTorch: images are 64 flat numbers in [0, 1], and a .pth
file holds the weights of the generator and of the discriminator. The second half is the code that you write.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import nn

import unflow as uf

# Third-party code


class Generator(nn.Module):
    """z [batch, 16] -> images [batch, 64] in [0, 1]."""

    config: dict[str, Any]

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 64),
            nn.Sigmoid(),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return images of latents."""
        return self.layers(z)


def make_classifier(width: int = 128) -> nn.Module:
    """Return a network of flat images: ten logits."""
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 10))


def train_gan(images: torch.Tensor, steps: int, path: Path) -> None:
    """Train by the non-saturating loss with a gradient penalty; save both networks."""
    torch.manual_seed(0)
    G = Generator()
    D = nn.Sequential(
        nn.Linear(64, 256), nn.LeakyReLU(0.2), nn.Linear(256, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1)
    )
    of_G, of_D = (torch.optim.Adam(net.parameters(), 3e-4, betas=(0.5, 0.99)) for net in (G, D))
    for _ in range(steps):
        real = images[torch.randint(len(images), (128,))].requires_grad_(True)
        score = D(real)
        (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
        loss = nnf.softplus(-score).mean() + nnf.softplus(D(G(torch.randn(128, 16)).detach())).mean()
        of_D.zero_grad()
        (loss + slope.square().sum(1).mean()).backward()
        of_D.step()
        of_G.zero_grad()
        nnf.softplus(-D(G(torch.randn(128, 16)))).mean().backward()
        of_G.step()
    torch.save({"generator": G.state_dict(), "discriminator": D.state_dict(), "step": steps}, path)


def train_classifier(images: torch.Tensor, labels: torch.Tensor, seed: int, steps: int) -> nn.Module:
    """Train on flat images."""
    torch.manual_seed(seed)
    net = make_classifier()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,))
        loss = nnf.cross_entropy(net(images[rows] + 0.1 * torch.randn(128, 64)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


# Code that you write


def forget(checkpoint: Path, guide: nn.Module, digit: int, out: Path, method: uf.methods.Method) -> nn.Module:
    """Return the third-party generator after it has forgotten one digit, as an instance of its own class."""
    net = Generator()
    uf.weights.load_weights(net, checkpoint)  # finds "generator" in the file
    net.config = {"builder": "third_party_gan:Generator", "options": {}}  # a bundle names it
    model = uf.Generator(uf.nets.WritesAs(net, (0, 1), (1, 8, 8)), prior_shape=(16,))
    energy = uf.energies.ClassLogOdds(uf.nets.ReadsAs(guide, (0, 1), (64,)), forget=digit, margin=4.0)
    result = uf.unlearn(uf.Target(model, energy), method, out=out)
    return result.module()


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gan"))
    parser.add_argument("--digit", type=int, default=3)
    parser.add_argument("--gan-steps", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)

    data = uf.data.load_data("digits")
    images, labels = data.x.flatten(1) / 2 + 0.5, data.labels
    half = torch.arange(len(images)) % 2 == 0
    checkpoint = options.out / "gan.pth"
    if not checkpoint.exists():
        train_gan(images, options.gan_steps, checkpoint)
    guide, judge = (
        train_classifier(images[rows], labels[rows], seed, 1500) for seed, rows in ((1, half), (2, ~half))
    )

    method = uf.methods.LatentTransport(steps=options.steps)
    after = forget(checkpoint, guide, options.digit, options.out / "forgotten", method)
    written = options.out / "gan-forgotten.pth"
    if not written.exists():
        uf.weights.write_weights(after, written, like=checkpoint)

    before = Generator()
    before.load_state_dict(torch.load(checkpoint, weights_only=True)["generator"])
    z = torch.randn(5000, 16, generator=uf.stream(0))
    with torch.no_grad():
        first, then = (judge(net(z)).argmax(1) for net in (before, after))
    kept = first != options.digit
    print(f"Of 5,000 samples, an independent judge sees a {options.digit} in:")
    print(f"  before {100 * float((~kept).float().mean()):.1f} %")
    print(f"  after  {100 * float((then == options.digit).float().mean()):.1f} %")
    print(f"  and {100 * float((first == then)[kept].float().mean()):.0f} % of the others keep their class")


if __name__ == "__main__":
    main()
