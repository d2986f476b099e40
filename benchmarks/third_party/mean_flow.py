"""A MeanFlow (arXiv 2505.13447) in its authors' convention: u(z, r, t), images at time 0, noise at time 1.

One step draws a sample: x = e - u(e, 0, 1).
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class MeanFlowMLP(nn.Module):
    def __init__(self, width: int = 512, depth: int = 3) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(784, width), nn.Linear(width, 784)
        self.cond = nn.Sequential(nn.Linear(64, 128), nn.SiLU())
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(depth)])
        self.mods = nn.ModuleList([nn.Linear(128, 2 * width) for _ in range(depth)])
        self.fcs = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.skip = nn.Linear(128, 1)

    def forward(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(30), 16, device=z.device, dtype=z.dtype))
        angles = [time[:, None] * frequencies for time in (t, t - r)]
        c = self.cond(torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1))
        flat = z.flatten(1)
        h = self.inp(flat)
        for norm, mod, fc in zip(self.norms, self.mods, self.fcs, strict=True):
            scale, shift = mod(c).chunk(2, 1)
            h = h + fc(nnf.silu(norm(h) * (1 + scale) + shift))
        return (self.out(h) + self.skip(c) * flat).reshape(z.shape)


def train(images: Tensor, labels: Tensor, steps: int = 3_000) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1]; return the averaged network."""
    data, net = 2 * images.unsqueeze(1) - 1, MeanFlowMLP()
    average = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps)
    for step in range(steps):
        x = data[torch.randint(len(data), (128,))]
        e = torch.randn_like(x)
        t, r = torch.sigmoid(torch.randn(2, 128) - 0.4).sort(0, descending=True).values
        r = torch.where(torch.rand(128) < 0.6, t, r)
        at = t[:, None, None, None]
        z, v = (1 - at) * x + at * e, e - x
        tangents = (v, torch.zeros_like(r), torch.ones_like(t))
        u, dudt = torch.func.jvp(net, (z, r, t), tangents)  # type: ignore[misc]
        target = (v - (t - r)[:, None, None, None] * dudt).detach()
        error = (u - target).square().flatten(1).mean(1)
        loss = (error / (error.detach() + 0.01)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(0.995, (1 + step) / (10 + step))
        for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
            slow.data.lerp_(fast.data, 1 - decay)
    return average
