"""A decoder forgets a digit that a black box scores: a function that returns one probability per image.

    python examples/a_black_box_scorer.py --out runs/black-box

The first half stands for third-party code: a variational autoencoder in plain PyTorch, whose decoder draws
digits from noise in one step, and a moderation service behind a function. The service reads images of bytes,
votes among nearest neighbours and returns a probability. It has no gradient and no logits, and every call
has a cost. The second half is the code that you write: it turns the function into an energy, shows the error
of a method that needs a gradient, and unlearns with a method that needs none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from torch import nn

import unflow as uf

# Third-party code


class Decoder(nn.Module):
    """z [batch, 8] -> images [batch, 1, 8, 8] in [0, 1]."""

    config: dict[str, Any]

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 64),
            nn.Sigmoid(),
            nn.Unflatten(1, (1, 8, 8)),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return images of latents."""
        return self.layers(z)


def train_decoder(images: torch.Tensor, steps: int) -> Decoder:
    """Train a variational autoencoder (standard deviation of pixels: 0.15), and return its decoder."""
    torch.manual_seed(0)
    decoder = Decoder()
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 16)
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = images[torch.randint(len(images), (128,))]
        mean, log_variance = encoder(x).chunk(2, 1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        miss = (decoder(z) - x).square().sum() / (2 * 0.15**2)
        surprise = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        optimizer.zero_grad()
        ((miss + surprise) / len(x)).backward()
        optimizer.step()
        schedule.step()
    return decoder.eval()


Score = Callable[[np.ndarray], np.ndarray]
"""Images [n, 8, 8, 1] of bytes -> the probability that each is not allowed, [n]."""


def train_moderation_service(images: np.ndarray, is_banned: np.ndarray) -> Score:
    """Return a vote among nearest neighbours; its caller sees no more than the function."""
    votes = KNeighborsClassifier(10, weights="distance").fit(images.reshape(len(images), -1), is_banned)

    def probability(images: np.ndarray) -> np.ndarray:
        return votes.predict_proba(images.reshape(len(images), -1))[:, 1]

    return probability


def to_bytes(images: torch.Tensor) -> np.ndarray:
    """Return images [n, 1, 8, 8] in [0, 1] as [n, 8, 8, 1] of 0 ... 255."""
    return (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


# Code that you write


def load_decoder(checkpoint: Path) -> Decoder:
    """Return the trained decoder, with the name from which a bundle can rebuild it."""
    net = Decoder()
    uf.weights.load_weights(net, checkpoint)
    net.config = {"builder": "a_black_box_scorer:Decoder", "options": {}}
    return net


def make_target(net: Decoder, black_box: uf.energies.BlackBox) -> uf.Target:
    """Return the request: the decoder shall draw no image that the black box scores high."""
    model = uf.Generator(uf.nets.WritesAs(net, (0, 1), (1, 8, 8)), prior_shape=(8,))
    return uf.Target(model, uf.energies.ScoreLogOdds(black_box, margin=1.0))


def catch_refusal(target: uf.Target, method: uf.methods.Method, out: Path) -> str:
    """Return the error message of a method that cannot serve the request; it trains and writes nothing."""
    try:
        uf.unlearn(target, method, out=out)
    except uf.InputError as error:
        return str(error)
    raise AssertionError("expected the method to raise an InputError")


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/black-box"))
    parser.add_argument("--digit", type=int, default=3)
    parser.add_argument("--decoder-steps", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--bank", type=int, default=16384)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)

    data = uf.data.load_data("digits")
    images, labels = data.x / 2 + 0.5, data.labels.numpy()
    half = np.arange(len(labels)) % 2 == 0
    checkpoint = options.out / "decoder.pth"
    if not checkpoint.exists():
        torch.save(train_decoder(images, options.decoder_steps).state_dict(), checkpoint)
    service = train_moderation_service(to_bytes(images[half]), labels[half] == options.digit)
    judge = SVC(gamma=0.2, C=10).fit(images[~half].flatten(1).numpy(), labels[~half])

    before = load_decoder(checkpoint)
    black_box = uf.energies.BlackBox(service, reads="uint8", batch_size=256, name="moderation service v1")
    target = make_target(before, black_box)
    print("The method uot is refused before any training:")
    print(f"  {catch_refusal(target, uf.methods.UNLEARNERS['uot'], options.out / 'forgotten')}")
    method = uf.methods.LatentTransport(steps=options.steps, bank_size=options.bank)
    result = uf.unlearn(target, method, out=options.out / "forgotten")
    print(f"latent_transport took {result.lineage['seconds']:.1f} s; the black box was called", end=" ")
    print(f"{black_box.calls} times in this run, for {black_box.scored:,} images in all")

    z = torch.randn(5000, 8, generator=uf.stream(0))
    with torch.no_grad():
        first, then = (judge.predict(net(z).flatten(1).numpy()) for net in (before, result.module()))
    kept = first != options.digit
    print(f"Of 5,000 samples, an independent judge sees a {options.digit} in:")
    print(f"  before {100 * float((~kept).mean()):.1f} %")
    print(f"  after  {100 * float((then == options.digit).mean()):.1f} %")
    print(f"  and {100 * float((first == then)[kept].mean()):.0f} % of the others keep their class")


if __name__ == "__main__":
    main()
