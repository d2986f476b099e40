"""Times in [0, 1] as features that a network can resolve."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """cos and sin of 2^k t for k = 0, 1, ...: [batch] -> [batch, 2 * num_frequencies]."""

    frequencies: Tensor

    def __init__(self, num_frequencies: int = 8) -> None:
        super().__init__()
        self.width = 2 * num_frequencies
        self.register_buffer("frequencies", 2.0 ** torch.arange(num_frequencies), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Return the features of t."""
        angle = t[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], dim=1)
