"""Intervals and tests: closed forms, coverage on laws that are known, and what they must refuse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from unflow.evidence.metrics import frechet_distance
from unflow.evidence.metrics.uncertainty import (
    bootstrap_interval,
    difference_interval,
    same_shares,
    samples_to_resolve,
)
from unflow.ground.errors import InputError
from unflow.mathematics.shares import Interval, share_interval


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Shares


@given(n=st.integers(1, 5000), data=st.data())
def test_the_ends_of_a_share_are_where_its_test_would_just_pass(n: int, data: st.DataObject) -> None:
    """|p_hat - p| = z sqrt(p (1 - p) / n) at both ends, unless an end is the end of [0, 1]."""
    count = data.draw(st.integers(0, n))
    z = float(stats.norm.ppf(0.975))
    interval = share_interval(count, n)
    for p in interval:
        if 0 < p < 1:
            assert abs(count / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), abs=1e-9)
    assert count / n in interval


def test_no_success_in_many_is_known_to_about_four_in_them() -> None:
    """At k = 0 the upper end is z^2 / (n + z^2): 3.84 / n, where a bootstrap would say 0."""
    z = float(stats.norm.ppf(0.975))
    assert share_interval(0, 5000) == pytest.approx((0.0, z**2 / (5000 + z**2)))


def test_at_the_level_of_one_standard_error_a_share_has_a_known_interval() -> None:
    low, high = share_interval(20, 40, math.erf(math.sqrt(0.5)))
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(1 / math.sqrt(41))


@pytest.mark.parametrize("p", [0.002, 0.02, 0.3])
def test_a_share_lies_in_its_interval_as_often_as_promised(p: float) -> None:
    """Summed over the binomial law, not sampled."""
    n = 1000
    covered = sum(float(stats.binom.pmf(k, n, p)) for k in range(n + 1) if p in share_interval(k, n))
    assert 0.93 < covered < 0.99


def test_a_difference_is_that_of_the_published_example() -> None:
    """Newcombe 1998, table II: 56/70 against 48/80, method 10: 0.0524 to 0.3339."""
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)


@given(a=st.integers(0, 300), b=st.integers(0, 200))
def test_a_difference_the_other_way_round_changes_its_sign(a: int, b: int) -> None:
    forth, back = difference_interval(a, 300, b, 200), difference_interval(b, 200, a, 300)
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert (a / 300 - b / 200) in Interval(forth.low - 1e-12, forth.high + 1e-12)


def test_with_the_samples_asked_for_half_a_point_is_resolved() -> None:
    n = samples_to_resolve(0.005, 0.01)
    assert n == math.ceil(2 * stats.norm.ppf(0.975) ** 2 * 0.0099 / 0.005**2) == 3043
    interval = difference_interval(0.015 * n, n, 0.005 * n, n)
    assert 0 not in interval
    assert 0 in difference_interval(0.012 * n, n, 0.01 * n, n)


# Bootstrap


def mean(x: Tensor) -> float:
    return float(x.mean())


def test_the_bootstrap_of_a_mean_has_its_standard_error() -> None:
    x = torch.randn(400, 1, generator=rng(), dtype=torch.float64)
    interval = bootstrap_interval(mean, x, repeats=2000, generator=rng(1))
    half = float(stats.norm.ppf(0.975)) * float(x.std(correction=0)) / 20
    assert interval == pytest.approx((mean(x) - half, mean(x) + half), abs=0.05 * half)


def test_the_bootstrap_of_a_distance_between_means_is_that_of_theory() -> None:
    """N(0, 1) and N(2, 1): the distance's standard error is about 2 * 2 sqrt(2 / n)."""
    x = torch.randn(2000, 1, generator=rng(), dtype=torch.float64)
    y = torch.randn(2000, 1, generator=rng(1), dtype=torch.float64) + 2

    def distance(a: Tensor, b: Tensor) -> float:
        return frechet_distance(generated=a, reference=b)

    interval = bootstrap_interval(distance, x, y, repeats=400, generator=rng(2))
    half = float(stats.norm.ppf(0.975)) * 4 * math.sqrt(2 / 2000)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.12)
    assert distance(x, y) == pytest.approx(sum(interval) / 2)


def test_rows_of_one_sample_stay_rows() -> None:
    x = torch.arange(50.0)[:, None] * torch.tensor([[1.0, -1.0]])
    zero = bootstrap_interval(lambda a: float(a.sum(1).abs().sum()), x, repeats=5, generator=rng())
    assert zero == (0.0, 0.0)


# Chi-square


def test_the_statistic_is_pearsons() -> None:
    first, second = [30, 50, 20], [60, 40, 100]
    test = same_shares(first, second)
    expected = 0.0
    for counts, n in ((first, 100), (second, 200)):
        for k in range(3):
            mean_count = n * (first[k] + second[k]) / 300
            expected += (counts[k] - mean_count) ** 2 / mean_count
    assert test.statistic == pytest.approx(expected)
    assert (test.dof, test.p_value) == (2, pytest.approx(float(stats.chi2.sf(expected, 2))))


def test_rare_classes_count_as_one() -> None:
    """Of [3, 1, 2, ...] against as many, 6 are expected together on each side."""
    test = same_shares([3, 1, 2, 500, 500], [1, 3, 2, 450, 550])
    assert test == pytest.approx(same_shares([6, 500, 500], [6, 450, 550]))
    assert test.dof == 2


def test_a_rare_class_alone_joins_the_rarest_other() -> None:
    assert same_shares([2, 0, 60, 500], [1, 0, 40, 500]) == pytest.approx(same_shares([62, 500], [41, 500]))


def test_one_class_tells_nothing() -> None:
    assert same_shares([0, 100], [0, 70]) == (0.0, 0, 1.0)
    assert same_shares([1, 2], [2, 1]) == (0.0, 0, 1.0)


def test_the_same_shares_are_refused_as_seldom_as_promised() -> None:
    shares, generator = torch.tensor([0.6, 0.3, 0.08, 0.02, 0.0002]), rng(3)
    small = 0
    for _ in range(400):
        one, other = (
            torch.bincount(torch.multinomial(shares, 2000, True, generator=generator), minlength=5).tolist()
            for _ in range(2)
        )
        small += same_shares(one, other).p_value < 0.05
    assert 0.02 < small / 400 < 0.09


# Refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: share_interval(3, 2), "3 of 2 samples"),
        (lambda: share_interval(0, 0), "0 of 0 samples"),
        (lambda: share_interval(1, 2, 1.0), "level=1.0"),
        (lambda: difference_interval(1, 2, 5, 4), "5 of 4 samples"),
        (lambda: samples_to_resolve(0.0, 0.1), "difference=0.0"),
        (lambda: bootstrap_interval(mean, torch.ones(3, 1), repeats=1, generator=rng()), "repeats=1"),
        (lambda: bootstrap_interval(mean, torch.ones(3), generator=rng()), r"shape \[3\]"),
        (lambda: same_shares([1], [1, 2]), "counts of 1 and 2 classes"),
        (lambda: same_shares([0, 0], [1, 2]), "samples on both sides"),
        (lambda: same_shares([-1, 2], [1, 2]), "numbers >= 0"),
    ],
)
def test_bad_input_is_refused(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=words):
        call()
