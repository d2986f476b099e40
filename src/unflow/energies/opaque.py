"""What a classifier without gradients says of the classes to forget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unflow.energies.base import Energy
from unflow.energies.class_log_odds import ClassLogOdds


class Opaque(Energy):
    """``ClassLogOdds`` of logits that somebody else's library computes, and torch cannot follow.

    Args:
        forget: class index or indices, at least one, not all.
        margin: >= 0, in nats; None for the unbounded log-odds.
    """

    def __init__(self, forget: int | Sequence[int], margin: float | None) -> None:
        super().__init__()
        self.log_odds = ClassLogOdds(nn.Identity(), forget, margin)

    @property
    def lower_bound(self) -> float:
        """0 with a margin, -inf for raw log-odds."""
        return self.log_odds.lower_bound

    @property
    def differentiable(self) -> bool:
        """False."""
        return False

    @abstractmethod
    def logits(self, x: Tensor) -> Tensor:
        """Return logits of samples, [batch, num_classes]."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the log-odds, bounded below if there is a margin; shape [batch]."""
        return self.log_odds(self.logits(x.detach())).to(x)
