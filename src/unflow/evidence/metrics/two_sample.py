"""Classifier two-sample test on a held-out half, with the standard error of its AUC."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real

from unflow.evidence.metrics.distances import (
    CLASSIFIERS,
    Array,
    as_feature_pair,
    held_out_scores,
    require_classifier,
    stack_labelled,
)
from unflow.mathematics.shares import LEVEL, Interval, quantile


class C2ST(NamedTuple):
    """A classifier two-sample test on held-out points."""

    auc: float
    """In [0, 1]: 0.5 if the classifier cannot distinguish the two sets."""
    standard_error: float
    """Of the AUC of this fitted classifier, over test points (DeLong et al., Biometrics 44, 1988)."""

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the normal interval of the AUC, clipped to [0, 1]."""
        half = quantile(level) * self.standard_error
        return Interval(max(0.0, self.auc - half), min(1.0, self.auc + half))


def held_out_c2st(
    *,
    generated: Float[Array, "n d"],
    reference: Float[Array, "m d"],
    seed: int = 0,
    classifier: str = "logistic",
) -> C2ST:
    """Fit a classifier on half of both sets, and return its AUC on the other halves.

    ``c2st_auc`` tests on every point and varies less. Its folds share training points, though, so one run
    gives no standard error of it.

    Args:
        generated: features, shape [n, d], n >= 4.
        reference: features, shape [m, d], m >= 4.
        seed: of the halves and of the forest.
        classifier: as in ``c2st_auc``.

    Raises:
        InputError: for an unknown classifier, fewer than 4 points, different widths, NaN.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    require_classifier(classifier)
    features, labels = stack_labelled(*as_feature_pair(generated, reference, at_least=4))
    halves = StratifiedShuffleSplit(1, test_size=0.5, random_state=seed)
    train, test = next(halves.split(features, labels))
    scores = held_out_scores(features, labels, train, test, CLASSIFIERS[classifier], seed)
    auc, variance = auc_with_variance(scores[labels[test] == 1], scores[labels[test] == 0])
    return C2ST(auc, math.sqrt(variance))


def auc_with_variance(
    positive: Real[np.ndarray, " n"], negative: Real[np.ndarray, " m"]
) -> tuple[float, float]:
    r"""Return the AUC, P(positive > negative) + P(equal)/2, and DeLong's estimate of its variance.

        var = var_i(P(x_i > y)) / n + var_j(P(x > y_j)) / m      (Biometrics 44, 1988)

    Args:
        positive: scores x, shape [n], n >= 1.
        negative: scores y, shape [m], m >= 1.

    Returns:
        The AUC in [0, 1], and its variance >= 0; a set of one score contributes no variance.
    """
    from scipy.stats import rankdata

    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:n] - rankdata(positive)) / m  # for each x, the share of y below it
    below = 1 - (ranks[n:] - rankdata(negative)) / n
    variance = sum(np.var(side, ddof=1) / len(side) for side in (above, below) if len(side) > 1)
    return float(above.mean()), float(variance)
