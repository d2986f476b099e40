"""The area under the ROC curve, its standard error, and the difference of two of the same samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from unflow.ground.errors import InputError
from unflow.mathematics.shares import LEVEL, Interval, quantile

Scores = Real[np.ndarray, " n"]


class AUC(NamedTuple):
    """An area under the ROC curve, P(positive > negative) + P(equal)/2."""

    auc: float
    """In [0, 1]: 0.5 if the scores do not distinguish the two sets."""
    standard_error: float
    """Over the scored points (DeLong et al., Biometrics 44, 1988)."""

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the normal interval of the AUC, clipped to [0, 1]."""
        half = quantile(level) * self.standard_error
        return Interval(max(0.0, self.auc - half), min(1.0, self.auc + half))


def measure_auc(positive: Scores, negative: Scores) -> AUC:
    """Return the AUC of scores, with its standard error; 0 at an AUC of 0 or 1, whose interval is a point.

    Args:
        positive: as in ``auc_with_variance``.
        negative: as in ``auc_with_variance``.
    """
    auc, variance = auc_with_variance(positive, negative)
    return AUC(auc, math.sqrt(variance))


def auc_with_variance(positive: Scores, negative: Scores) -> tuple[float, float]:
    r"""Return the AUC, P(positive > negative) + P(equal)/2, and DeLong's estimate of its variance.

        var = var_i(P(x_i > y)) / n + var_j(P(x > y_j)) / m      (Biometrics 44, 1988)

    Args:
        positive: scores x, shape [n], n >= 1.
        negative: scores y, shape [m], m >= 1.

    Returns:
        The AUC in [0, 1], and its variance >= 0; a set of one score contributes no variance.
    """
    above, below = _placements(positive, negative)
    return float(above.mean()), _variance(above) + _variance(below)


def auc_difference(
    ours: tuple[Scores, Scores], theirs: tuple[Scores, Scores], level: float = LEVEL
) -> tuple[float, Interval]:
    r"""Return AUC - AUC' of two scores of the same points, and the normal interval of the difference.

        var = var_i(P(x_i > y) - P(x'_i > y')) / n + var_j(P(x > y_j) - P(x' > y'_j)) / m

    Both scores rank the same points, so that the noise of the points cancels (DeLong et al., Biometrics 44,
    1988, Eq. 5).

    Args:
        ours: positive and negative scores, shapes [n] and [m], n, m >= 1.
        theirs: another score of the same points in the same order.
        level: confidence level, in (0, 1).

    Raises:
        InputError: for another number of points.
    """
    sizes = [tuple(len(each) for each in pair) for pair in (ours, theirs)]
    if sizes[0] != sizes[1]:
        raise InputError(f"got scores of {sizes[0]} and {sizes[1]} points; expected the same points for both")
    (above, below), (above_other, below_other) = _placements(*ours), _placements(*theirs)
    difference = float(above.mean() - above_other.mean())
    variance = _variance(above - above_other) + _variance(below - below_other)
    half = quantile(level) * math.sqrt(variance)
    return difference, Interval(difference - half, difference + half)


def _placements(
    positive: Scores, negative: Scores
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Return P(x_i > y) for each x_i, and P(x > y_j) for each y_j; a tie counts half."""
    from scipy.stats import rankdata

    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    return (ranks[:n] - rankdata(positive)) / m, 1 - (ranks[n:] - rankdata(negative)) / n


def _variance(placements: Float[np.ndarray, " n"]) -> float:
    """Return the variance of a mean; 0 for one point."""
    return float(np.var(placements, ddof=1) / len(placements)) if len(placements) > 1 else 0.0
