"""Log-odds of classifiers that torch cannot differentiate, and their probabilities as logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from unflow.energies.base import Energy
from unflow.energies.class_log_odds import ClassLogOdds
from unflow.ground.errors import InputError
from unflow.ground.logits import ROUNDING

FLOOR = 1e-6
"""Smaller probabilities count as this one: log-odds of 13.8 nats, more than any useful margin."""


class Opaque(Energy):
    """``ClassLogOdds`` of logits that another library computes, so that there is no gradient.

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
    def logits(self, x: Shaped[Tensor, " batch *shape"]) -> Float[Tensor, " batch classes"]:
        """Return the logits of samples, [batch, num_classes]."""

    @torch.no_grad()
    def forward(self, x: Shaped[Tensor, " batch *shape"]) -> Float[Tensor, " batch"]:
        """Return the log-odds, bounded below if there is a margin; shape [batch]."""
        F: Tensor = self.log_odds(self.logits(x.detach()))
        return F.to(x)


def log_probabilities(p: Tensor, floor: float = FLOOR) -> Tensor:
    r"""Return log max(p, floor) in double precision, [batch, num_classes].

    Decision trees and nearest neighbours return probabilities of exactly 0 and 1, and single precision rounds
    to them; their log-odds are infinite. With the floor, log-odds against k classes are at most
    log(k / floor).

    Args:
        p: rows of probabilities, [batch, num_classes], summing to 1.
        floor: > 0.

    Raises:
        InputError: for rows that are not probabilities.
    """
    p = p.double()
    inside = (p >= -ROUNDING).all() and (p <= 1 + ROUNDING).all()
    if p.ndim != 2 or not inside or not ((p.sum(1) - 1).abs() <= ROUNDING).all():
        least, most = (float(p.min()), float(p.max())) if p.numel() else (0.0, 0.0)
        raise InputError(
            f"got outputs of shape {list(p.shape)} from {least:.4g} to {most:.4g} as probabilities; expected "
            "rows in [0, 1] that sum to 1: normalise them, or write that they are logits"
        )
    return p.clamp(min=floor).log()


def check_floor(floor: float) -> None:
    """Raise InputError for a floor outside (0, 0.5)."""
    if not 0 < floor < 0.5:
        raise InputError(f"got floor={floor}; expected a number in (0, 0.5), like {FLOOR:g}")


def binary_probabilities(p: Float[Tensor, " batch"]) -> Float[Tensor, " batch 2"]:
    """Return the probabilities of the classes 0 and 1, [batch, 2], from that of class 1, [batch]."""
    return torch.stack([1 - p, p], dim=1)
