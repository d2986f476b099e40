"""Train a small GAN on the digits of a finished demo run, as an example of a third-party generator.

    unflow demo --out demo
    python benchmarks/digits_gan.py demo
    python benchmarks/variants.py demo latent_transport "" "coupling=maximal" --model gan

It writes demo/gan; every command can read it while this folder is on PYTHONPATH. The GAN uses the
non-saturating loss with R1 (arXiv 1801.04406), 16-dimensional latents and averaged weights.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import unflow as uf
from unflow.training.originals.base_models import load_rows


def generator(latent: int = 16, width: int = 256) -> nn.Module:
    """Return the generator, [batch, latent] -> [batch, 1, 8, 8]."""
    return nn.Sequential(
        nn.Linear(latent, width),
        nn.LayerNorm(width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.SiLU(),
        nn.Linear(width, 64),
        nn.Tanh(),
        nn.Unflatten(1, (1, 8, 8)),
    )


class Discriminator(nn.Module):
    """An MLP with a batch standard deviation feature, against mode collapse (arXiv 1710.10196)."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = nn.Linear(width + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x.flatten(1))
        spread = h.reshape(-1, 8, h.shape[1]).std(1).mean(1).repeat_interleave(8)
        return self.head(torch.cat([h, spread[:, None]], 1))[:, 0]


def train(data: Tensor, seed: int, steps: int, batch: int = 128, r1: float = 1.0) -> nn.Module:
    """Train the GAN and return the generator with averaged weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        G, D = generator(), Discriminator()
    average = copy.deepcopy(G)
    up = torch.optim.Adam(G.parameters(), 5e-4, betas=(0.0, 0.99))
    down = torch.optim.Adam(D.parameters(), 5e-4, betas=(0.0, 0.99))
    for step in range(steps):
        draws = uf.stream(seed, 1, step)
        x = data[torch.randint(len(data), (batch,), generator=draws)].requires_grad_(True)
        z = torch.randn(2, batch, 16, generator=draws)
        real, fake = D(x), D(G(z[0]).detach())
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        penalty = r1 / 2 * slope.square().flatten(1).sum(1).mean()
        down.zero_grad()
        (nnf.softplus(-real).mean() + nnf.softplus(fake).mean() + penalty).backward()
        down.step()
        up.zero_grad()
        nnf.softplus(-D(G(z[1]))).mean().backward()
        up.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(G.parameters()), 0.005)
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_rows("digits", options.run / "split.json", "train")
    started = time.perf_counter()
    net: Any = train(data.x, options.seed, options.steps)
    seconds = time.perf_counter() - started
    net.config = {"builder": "digits_gan:generator", "options": {"latent": 16, "width": 256}}
    model = uf.Generator(net, (16,))
    uf.save(model, options.run / "gan", {"method": "gan", "seed": options.seed, "seconds": seconds})
    judge = uf.load_classifier(options.run / "judge")
    counts = torch.bincount(judge.probabilities(model.sample(4000, uf.stream(0))).argmax(1), minlength=10)
    print(f"{seconds:.0f} s; of 4,000 samples the judge calls {counts.tolist()}")


if __name__ == "__main__":
    main()
