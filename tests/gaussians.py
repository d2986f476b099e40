"""Gaussian classes N(M_c, 1), whose flows from N(0, 1) are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unflow.ground.streams import stream
from unflow.mathematics.paths import expand

CENTRES = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
SHARES = [0.5, 0.3, 0.2]
MIDDLE = torch.tensor(SHARES) @ CENTRES
"""The mean of all classes: the centre that the null condition learns."""


class Gaussians(nn.Module):
    """The exact average velocity of N(0, 1) -> N(M_c, 1) on the linear path, of learned centres M_c.

    x_e = e M + (d_e / d_s) (x_s - s M) with d_t^2 = t^2 + (1 - t)^2, so that x = z + M in one step.
    """

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.centres = nn.Parameter(centres)

    def forward(self, x: Tensor, s: Tensor, e: Tensor, label: Tensor) -> Tensor:
        d_s, d_e = ((t.square() + (1 - t).square()).sqrt() for t in (s, e))
        slope = 2 * (s + e - 1) / (d_s * (d_s + d_e))
        M = self.centres[label]
        return M + expand(slope, x) * (x - expand(s, x) * M)


class Velocities(Gaussians):
    """The velocity of the same flows."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, t, t, label)


def draw_labelled(n: int) -> tuple[Tensor, Tensor]:
    """Return samples [n, 2] of the classes, and their labels."""
    label = torch.multinomial(torch.tensor(SHARES), n, True, generator=stream(1))
    return CENTRES[label] + torch.randn(n, 2, generator=stream(2)), label
