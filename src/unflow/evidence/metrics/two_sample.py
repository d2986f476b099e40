"""Can a classifier tell two sets apart? One fit, one held-out half, and how far its AUC is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unflow.evidence.metrics.distances import (
    CLASSIFIERS,
    as_feature_pair,
    held_out_scores,
    labelled,
    require_classifier,
)
from unflow.evidence.metrics.uncertainty import LEVEL, Interval, quantile


class C2ST(NamedTuple):
    """A classifier two-sample test on held-out points."""

    auc: float
    """In [0, 1]: 0.5 where the classifier cannot tell the two sets apart."""
    standard_error: float
    """Of the AUC of this classifier, over test points (DeLong et al., Biometrics 44, 1988)."""

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the AUC's normal interval, within [0, 1]."""
        half = quantile(level) * self.standard_error
        return Interval(max(0.0, self.auc - half), min(1.0, self.auc + half))


def held_out_c2st(
    *, generated: ArrayLike, reference: ArrayLike, seed: int = 0, classifier: str = "logistic"
) -> C2ST:
    """Fit a classifier on half of both sets, and tell the other halves apart.

    ``c2st_auc`` uses every point for both and varies less, but its folds share their classifiers' points,
    so that its error cannot be had from one run: here it can.

    Args:
        generated: features, shape [n, d], n >= 4.
        reference: features, shape [m, d], m >= 4.
        seed: of the halves and of the forest.
        classifier: as in ``c2st_auc``.

    Raises:
        InputError: for an unknown classifier, fewer points, different widths, NaN.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    require_classifier(classifier)
    features, labels = labelled(*as_feature_pair(generated, reference, at_least=4))
    halves = StratifiedShuffleSplit(1, test_size=0.5, random_state=seed)
    train, test = next(halves.split(features, labels))
    scores = held_out_scores(features, labels, train, test, CLASSIFIERS[classifier], seed)
    auc, variance = auc_with_variance(scores[labels[test] == 1], scores[labels[test] == 0])
    return C2ST(auc, math.sqrt(variance))


def auc_with_variance(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    r"""Return P(positive > negative) + P(equal)/2 of scores, and DeLong's variance of it.

        var = var_i(P(x_i > y)) / n + var_j(P(x > y_j)) / m      (Biometrics 44, 1988)

    Args:
        positive: scores x, shape [n], n >= 1.
        negative: scores y, shape [m], m >= 1.

    Returns:
        The AUC in [0, 1], and its variance >= 0; a side with one score adds none.
    """
    from scipy.stats import rankdata

    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:n] - rankdata(positive)) / m  # of each x: the share of y under it
    below = 1 - (ranks[n:] - rankdata(negative)) / n
    variance = sum(np.var(side, ddof=1) / len(side) for side in (above, below) if len(side) > 1)
    return float(above.mean()), float(variance)
