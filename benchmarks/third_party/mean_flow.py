"""A MeanFlow (arXiv 2505.13447) in its authors' convention: u(z, r, t), images at time 0, noise at time 1.

One step draws a sample: x = e - u(e, 0, 1). The network draws an image x(z, r, t), which gives the average
velocity u = (z - x) / t (pixel MeanFlow, arXiv 2601.22158): u contains all the noise of z, which an MLP
that draws u itself would have to copy.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

LEAST = 0.03
"""Least time that is divided by."""


class MeanFlowMLP(nn.Module):
    def __init__(self, width: int = 512, depth: int = 3) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(784, width), nn.Linear(width, 784)
        self.cond = nn.Sequential(nn.Linear(64, 128), nn.SiLU())
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(depth)])
        self.mods = nn.ModuleList([nn.Linear(128, 2 * width) for _ in range(depth)])
        self.fcs = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])

    def forward(self, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(10), 16, device=z.device, dtype=z.dtype))
        angles = [time[:, None] * frequencies for time in (t, t - r)]
        c = self.cond(torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1))
        h = self.inp(z.flatten(1))
        for norm, mod, fc in zip(self.norms, self.mods, self.fcs, strict=True):
            scale, shift = mod(c).chunk(2, 1)
            h = h + fc(nnf.silu(norm(h) * (1 + scale) + shift))
        x = torch.tanh(self.out(h)).reshape(z.shape)
        return (z - x) / t.clamp_min(LEAST)[:, None, None, None]


def train(images: Tensor, labels: Tensor, steps: int = 3_000) -> nn.Module:
    """Train on images [n, 28, 28] in [0, 1]; return the averaged network."""
    data, net = 2 * images.unsqueeze(1) - 1, MeanFlowMLP()
    average = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps)
    for step in range(steps):
        x = data[torch.randint(len(data), (128,))]
        e = torch.randn_like(x)
        # uniform, so that the times of a sample in one step (0 and 1) are among those of the training
        t, r = torch.rand(2, 128).sort(0, descending=True).values
        t = t.clamp_min(LEAST)
        r = torch.where(torch.rand(128) < 0.5, t, r)
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
