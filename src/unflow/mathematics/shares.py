"""Confidence intervals of shares."""

from __future__ import annotations

import math
from typing import NamedTuple

from unflow.ground.errors import InputError

LEVEL = 0.95
"""Default confidence level."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        """Return whether a number lies in the closed interval."""
        return isinstance(value, int | float) and self.low <= value <= self.high


def share_interval(count: float, n: int, level: float = LEVEL) -> Interval:
    r"""Wilson's score interval of a share.

        (k + z^2/2) / (n + z^2)  ±  z sqrt(k (n - k) / n + z^2/4) / (n + z^2)

    (Wilson, JASA 22, 1927.) Its length is positive even at k = 0, where the bootstrap interval has length 0.

    Args:
        count: k, the number of samples that count, 0 <= k <= n.
        n: number of independent samples, >= 1.
        level: confidence level, in (0, 1).

    Returns:
        An interval within [0, 1].

    Raises:
        InputError: for counts or a level out of range.
    """
    require_count(count, n)
    z = quantile(level)
    centre = (count + z**2 / 2) / (n + z**2)
    half = z * math.sqrt(count * (n - count) / n + z**2 / 4) / (n + z**2)
    # The exact ends keep rounding from excluding the share itself.
    return Interval(0.0 if count == 0 else centre - half, 1.0 if count == n else centre + half)


def quantile(level: float) -> float:
    """Return z such that a standard normal variable lies in [-z, z] with probability ``level``."""
    if not 0 < level < 1:
        raise InputError(f"got level={level}; expected a confidence between 0 and 1, like 0.95")
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2))


def require_count(count: float, n: int) -> None:
    """Raise InputError unless ``count`` of n samples is possible."""
    if n < 1 or not 0 <= count <= n:
        raise InputError(f"got {count} of {n} samples; expected a count from 0 to n, and n >= 1")
