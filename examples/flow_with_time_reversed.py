"""A flow of plain PyTorch, whose time runs from data to noise in thousandths, forgets one of two moons.

    python examples/flow_with_time_reversed.py --out runs/moons

The first half stands for the somebody else. Their network is called net(t, x), t = 1000 is noise, and dx/dt
points to it. The second half is what you write: one adapter, one request, and their network back.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import nn

import unflow as uf

# Somebody else's code


class Velocity(nn.Module):
    """(t [batch] in [0, 1000], x [batch, 2]) -> velocity towards the noise, per unit of t / 1000."""

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


# What you write


def forget_upper_moon(net: Velocity, energy: uf.energies.Energy, steps: int, out: Path) -> nn.Module:
    """Return their network without what the energy names: trained in its own weights."""
    net.config = {"builder": "flow_with_time_reversed:Velocity", "options": {}}
    ours = uf.nets.AdaptedVelocity(net, (2,), "t, x", noise_at=1, time_scale=1000)
    target = uf.Target(uf.Flow(ours, (2,), steps=16), energy)
    method = dataclasses.replace(uf.methods.UNLEARNERS["erfm_resample_prior"], steps=steps)
    return uf.unlearn(target, method, out=out).module()


def samples(net: nn.Module, z: torch.Tensor, steps: int = 50) -> torch.Tensor:
    """Draw as the somebody else does: Euler's steps from the noise back to the data."""
    x = z
    with torch.no_grad():
        for k in range(steps, 0, -1):
            x = x - net(torch.full((len(x),), 1000 * k / steps), x) / steps
    return x


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/moons"))
    parser.add_argument("--flow-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=1500)
    asked = parser.parse_args()
    torch.set_num_threads(1)

    moons = uf.data.PLANAR_SETS["moons"]
    data = moons.sample(20_000, uf.stream(0))
    before = train_velocity(data.x, asked.flow_steps)
    energy = uf.energies.Region(lambda x: moons.classify(x) == 1, height=8.0)
    after = forget_upper_moon(before, energy, asked.steps, asked.out)
    z = torch.randn(5000, 2, generator=uf.stream(1))
    for name, net in (("before", before), ("after", after)):
        share = float((moons.classify(samples(net, z)) == 1).float().mean())
        print(f"{name}: {100 * share:.1f} % of 5,000 samples lie on the moon that was to be forgotten")


if __name__ == "__main__":
    main()
