"""Probabilities as logits: what is exactly 0 or 1 has a floor."""

from __future__ import annotations

import torch
from torch import Tensor

from unflow.ground.errors import InputError

FLOOR = 1e-6
"""Least probability that is believed: 13.8 nats, more than any margin asks for."""
ROUNDING = 0.01
"""How far a row of probabilities may be from 1: half precision with a thousand classes."""


def log_probabilities(p: Tensor, floor: float = FLOOR) -> Tensor:
    r"""Return log max(p, floor) in double precision, [batch, num_classes].

    Trees and neighbours vote exactly 0 and 1, and single precision rounds to them; their log-odds are
    infinite. With the floor they are log(k / floor) at most, k classes being on the other side.

    Args:
        p: rows of probabilities, [batch, num_classes], summing to 1.
        floor: > 0.

    Raises:
        InputError: for rows that are no probabilities.
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


def two_logits(logit: Tensor) -> Tensor:
    """Return the logits of the classes 0 and 1 for that of class 1 alone: [batch] -> [batch, 2]."""
    return torch.stack([torch.zeros_like(logit), logit], dim=1)


def two_probabilities(p: Tensor) -> Tensor:
    """Return the probabilities of the classes 0 and 1 for that of class 1 alone: [batch] -> [batch, 2]."""
    return torch.stack([1 - p, p], dim=1)
