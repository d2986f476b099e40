"""A flow in plain PyTorch, whose time runs from data (0) to noise (1000), forgets one of two moons.

    python examples/flow_with_time_reversed.py --out runs/moons

The first half stands for third-party code. The network is called as net(t, x), t = 1000 is noise, and the
velocity points from data to noise. The second half is the code that you write: one adapter and one request,
which give the network back with new weights.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

import unflow as uf

# Third-party code


class Velocity(nn.Module):
    """(t [batch] in [0, 1000], x [batch, 2]) -> velocity towards the noise, per unit of t / 1000."""

    config: dict[str, Any]

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return the velocity."""
        angles = t[:, None] / 1000 * torch.tensor([1.0, 2.0, 4.0, 8.0])
        return self.layers(torch.cat([x, angles.sin(), angles.cos()], 1))


def train_velocity(x: torch.Tensor, steps: int) -> Velocity:
    """Train by flow matching on straight lines from data (t = 0) to noise (t = 1000)."""
    torch.manual_seed(0)
    net = Velocity()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        data, noise, t = x[torch.randint(len(x), (512,))], torch.randn(512, 2), torch.rand(512)
        x_t = (1 - t)[:, None] * data + t[:, None] * noise
        loss = (net(1000 * t, x_t) - (noise - data)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


# Code that you write


def forget_upper_moon(net: Velocity, energy: uf.energies.Energy, steps: int, out: Path) -> nn.Module:
    """Train the network's own weights to forget the energy's region, and return the network."""
    net.config = {"builder": "flow_with_time_reversed:Velocity", "options": {}}
    ours = uf.nets.AdaptedVelocity(net, (2,), "t, x", noise_at=1, time_scale=1000)
    target = uf.Target(uf.Flow(ours, (2,), steps=16), energy)
    row = uf.methods.UNLEARNERS["erfm_resample_prior"]
    assert isinstance(row, uf.methods.ERFM)
    method = dataclasses.replace(row, steps=steps)
    return uf.unlearn(target, method, out=out).module()


def draw_samples(net: nn.Module, z: torch.Tensor, steps: int = 50) -> torch.Tensor:
    """Draw samples as the third-party code does: Euler steps from noise back to data."""
    x = z
    with torch.no_grad():
        for k in range(steps, 0, -1):
            x = x - net(torch.full((len(x),), 1000 * k / steps), x) / steps
    return x


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/moons"))
    parser.add_argument("--flow-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    torch.set_num_threads(1)

    moons = uf.data.PLANAR_SETS["moons"]
    data = moons.sample(20_000, uf.stream(0))
    before = train_velocity(data.x, options.flow_steps)
    energy = uf.energies.Region(lambda x: moons.classify(x) == 1, height=8.0)
    after = forget_upper_moon(before, energy, options.steps, options.out)
    z = torch.randn(5000, 2, generator=uf.stream(1))
    for name, net in (("before", before), ("after", after)):
        share = float((moons.classify(draw_samples(net, z)) == 1).float().mean())
        print(f"{name}: {100 * share:.1f} % of 5,000 samples lie on the forgotten moon")


if __name__ == "__main__":
    main()
