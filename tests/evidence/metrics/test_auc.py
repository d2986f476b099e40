"""AUC and differences of AUCs: closed forms, ties, and intervals that hold as often as they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unflow.evidence.metrics import auc_difference, auc_with_variance, measure_auc
from unflow.ground.errors import InputError
from unflow.mathematics.shares import LEVEL


def best_auc(shift: float) -> float:
    """N(s, 1) against N(0, 1): Phi(s / sqrt 2)."""
    return 0.5 * (1 + math.erf(shift / 2))


@pytest.mark.parametrize("shift", [0.0, 0.7, 1.5])
def test_the_interval_holds_the_auc_of_two_gaussians_as_often_as_promised(shift: float) -> None:
    generator, held, runs = np.random.default_rng(1), 0, 600
    for _ in range(runs):
        low, high = measure_auc(generator.normal(shift, 1, 70), generator.normal(0, 1, 50)).interval()
        held += low <= best_auc(shift) <= high
    assert held / runs == pytest.approx(LEVEL, abs=0.025)


def test_many_points_have_the_closed_form() -> None:
    generator = np.random.default_rng(2)
    auc, _ = auc_with_variance(generator.normal(1.0, 1, 20_000), generator.normal(0, 1, 20_000))
    assert auc == pytest.approx(best_auc(1.0), abs=0.01)


def test_the_same_ranks_differ_by_exactly_nothing() -> None:
    """Ties count half, and a growing function of a score changes no rank."""
    x, y = np.array([1.0, 1.0, 3.0, 2.0]), np.array([0.0, 1.0, 2.0])
    assert auc_with_variance(x, y)[0] == pytest.approx((1.5 + 1.5 + 3 + 2.5) / 12)
    assert auc_difference((x, y), (np.exp(x), np.exp(y))) == (0.0, (0.0, 0.0))
    assert auc_difference((x, y), (-x, -y))[0] == pytest.approx(2 * auc_with_variance(x, y)[0] - 1)


def test_a_difference_of_two_scores_of_the_same_points_covers_the_true_one() -> None:
    """Scores x + a e and x + b e' of one x: the noise of x cancels, and the interval is shorter for it."""
    generator, held, runs, shorter = np.random.default_rng(3), 0, 400, 0
    true = best_auc(1 / math.hypot(1, 0.3)) - best_auc(1 / math.hypot(1, 0.8))
    for _ in range(runs):
        x, y = generator.normal(1, 1, 80), generator.normal(0, 1, 80)
        ours, theirs = (
            (x + scale * generator.normal(size=80), y + scale * generator.normal(size=80))
            for scale in (0.3, 0.8)
        )
        _, (low, high) = auc_difference(ours, theirs)
        held += low <= true <= high
        apart = [auc_with_variance(*pair)[1] for pair in (ours, theirs)]
        shorter += (high - low) < 2 * 1.96 * math.sqrt(sum(apart))
    assert held / runs == pytest.approx(LEVEL, abs=0.03)
    assert shorter / runs > 0.99


def test_scores_of_other_points_are_refused() -> None:
    x, y = np.arange(4.0), np.arange(3.0)
    with pytest.raises(InputError, match=r"scores of \(4, 3\) and \(3, 3\) points"):
        auc_difference((x, y), (y, y))
