"""Distances between feature sets: closed forms, independent implementations, and expectations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from unflow.evidence.metrics import (
    CLASSIFIERS,
    auc_with_variance,
    c2st_auc,
    frechet_distance,
    held_out_c2st,
    median_bandwidth,
    mmd,
    repeated_mmd,
    total_variation,
)
from unflow.evidence.metrics import distances as room
from unflow.ground.errors import InputError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return shift + scale * torch.randn(n, d, generator=rng(seed), dtype=torch.float64)


def with_moments(mean: Tensor, factor: Tensor, n: int, seed: int) -> Tensor:
    """Points with sample mean ``mean`` and sample covariance factor factor', exactly."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return mean + (factor @ whitened).T


# Fréchet distance


def test_frechet_of_commuting_gaussians_is_the_closed_form():
    mean_x, mean_y = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.0, 4.0, 3.0]).double()
    sd_x, sd_y = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 2.0, 1.5]).double()
    x = with_moments(mean_x, sd_x.diag(), 40, seed=1)
    y = with_moments(mean_y, sd_y.diag(), 70, seed=2)
    exact = float((mean_x - mean_y).square().sum() + (sd_x - sd_y).square().sum())
    assert frechet_distance(generated=x, reference=y) == pytest.approx(exact, rel=1e-12)


def test_frechet_agrees_with_sqrtm_and_torchmetrics():
    factor = normal(6, 6, seed=3)
    x, y = normal(50, 6, 4, shift=0.3), normal(80, 6, 5) @ factor
    C_x, C_y = x.T.cov(), y.T.cov()
    ours = frechet_distance(generated=x, reference=y)
    root = sqrtm(C_x.numpy() @ C_y.numpy())
    by_sqrtm = (x.mean(0) - y.mean(0)).square().sum() + C_x.trace() + C_y.trace()
    assert ours == pytest.approx(float(by_sqrtm) - 2 * np.trace(root).real, rel=1e-10)
    by_torchmetrics = float(_compute_fid(x.mean(0), C_x, y.mean(0), C_y))
    assert ours == pytest.approx(by_torchmetrics, rel=1e-10)


def test_frechet_agrees_with_the_symmetric_product():
    x, y = normal(40, 8, 6), normal(30, 8, 7, scale=2.0)
    values, vectors = torch.linalg.eigh(x.T.cov())
    root = vectors * values.sqrt() @ vectors.T
    fidelity = torch.linalg.eigvalsh(root @ y.T.cov() @ root).sqrt().sum()
    exact = (x.mean(0) - y.mean(0)).square().sum() + x.T.cov().trace() + y.T.cov().trace()
    exact = exact - 2 * fidelity
    assert frechet_distance(generated=x, reference=y) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(100, 5), (10, 200), (2, 3)])
def test_frechet_is_zero_for_equal_sets_at_any_rank(n: int, d: int):
    x = normal(n, d, 8)
    assert frechet_distance(generated=x, reference=x.flip(0)) == pytest.approx(0, abs=1e-10 * d)


def test_frechet_of_rank_deficient_sets_is_exact():
    """Two segments on orthogonal axes: the product of the covariances is 0."""
    x = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    y = torch.tensor([[0.0, -2.0, 0.0], [0.0, 2.0, 0.0]])
    assert frechet_distance(generated=x, reference=y) == pytest.approx(2 + 8, abs=1e-12)


def test_frechet_is_symmetric_and_invariant_to_rotation_and_order():
    x, y = normal(60, 5, 9), normal(40, 5, 10, shift=1.0)
    rotation = torch.linalg.qr(normal(5, 5, 11)).Q
    value = frechet_distance(generated=x, reference=y)
    assert frechet_distance(generated=y, reference=x) == pytest.approx(value)
    moved = frechet_distance(generated=x.flip(0) @ rotation, reference=y @ rotation)
    assert moved == pytest.approx(value)


def test_frechet_of_shift_is_its_squared_length():
    x = normal(50, 4, 12)
    moved = x + torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert frechet_distance(generated=x, reference=moved) == pytest.approx(25.0)


# Maximum mean discrepancy


def naive_mmd(x: Tensor, y: Tensor, bandwidth: float, unbiased: bool) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return math.exp(-float((a - b).square().sum()) / (2 * bandwidth**2))

    def within(points: Tensor) -> float:
        pairs = [
            kernel(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if not unbiased or i != j
        ]
        return sum(pairs) / len(pairs)

    cross = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * cross


@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_agrees_with_a_double_loop_in_any_block_size(unbiased: bool, monkeypatch: pytest.MonkeyPatch):
    x, y = normal(9, 3, 0), normal(7, 3, 1, shift=0.5)
    expected = naive_mmd(x, y, 0.8, unbiased)
    for entries in (room.BLOCK_ENTRIES, 20, 1):
        monkeypatch.setattr(room, "BLOCK_ENTRIES", entries)
        value = mmd(generated=x, reference=y, bandwidth=0.8, unbiased=unbiased)
        assert value == pytest.approx(expected, abs=1e-13)


def test_mmd_of_gaussians_has_the_closed_form_as_expectation():
    """E k(a, b) for a - b ~ N(m, v I_d) is (1 + v/s^2)^(-d/2) exp(-||m||^2 / (2 (s^2 + v)))."""
    d, s, shift = 2, 1.0, 0.7

    def mean_kernel(gap: float) -> float:
        return (1 + 2 / s**2) ** (-d / 2) * math.exp(-d * gap**2 / (2 * (s**2 + 2)))

    exact = 2 * mean_kernel(0.0) - 2 * mean_kernel(shift)
    values = [
        mmd(generated=normal(60, d, i), reference=normal(60, d, 1000 + i, shift), bandwidth=s)
        for i in range(200)
    ]
    assert np.mean(values) == pytest.approx(exact, abs=4 * float(np.std(values)) / math.sqrt(200))


def test_unbiased_mmd_is_zero_in_expectation_on_one_law_and_biased_is_not():
    sets = [(normal(20, 2, i), normal(20, 2, 1000 + i)) for i in range(300)]
    free = [mmd(generated=x, reference=y, bandwidth=1.0) for x, y in sets]
    biased = [mmd(generated=x, reference=y, bandwidth=1.0, unbiased=False) for x, y in sets]
    assert abs(np.mean(free)) < 4 * np.std(free) / math.sqrt(300)
    assert min(free) < 0
    # The biased mean is (1 - E k(x, x')) (1/n + 1/m), with E k(x, x') = 1/3 here.
    assert np.mean(biased) == pytest.approx(2 / 3 * (1 / 20 + 1 / 20), rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.floats(0.1, 10), st.integers(0, 10**6))
def test_biased_mmd_is_never_negative_and_symmetric(n: int, m: int, bandwidth: float, seed: int):
    x, y = normal(n, 2, seed), normal(m, 2, seed + 1)
    value = mmd(generated=x, reference=y, bandwidth=bandwidth, unbiased=False)
    assert value >= 0
    swapped = mmd(generated=y, reference=x, bandwidth=bandwidth, unbiased=False)
    assert swapped == pytest.approx(value, abs=1e-14)


def test_biased_mmd_of_equal_sets_is_zero_and_of_far_sets_is_two_over_n():
    x = normal(10, 2, 0)
    assert mmd(generated=x, reference=x, bandwidth=1.0, unbiased=False) == 0.0
    apart = torch.arange(10.0)[:, None] * 1e3
    value = mmd(generated=apart, reference=apart + 1e6, bandwidth=1.0, unbiased=False)
    assert value == pytest.approx(2 / 10, abs=1e-15)


def test_median_bandwidth_by_hand_and_by_subset():
    points = torch.tensor([[0.0], [1.0], [3.0]])  # distances 1, 2, 3
    assert median_bandwidth(points, rng()) == 2.0
    x = normal(3000, 2, 0)
    # ||x - x'||^2 / 2 is chi-square with two degrees of freedom: its median is 2 log 2.
    exact = math.sqrt(4 * math.log(2))
    assert median_bandwidth(x, rng(), max_points=500) == pytest.approx(exact, rel=0.05)
    assert median_bandwidth(x, rng(3), 100) == median_bandwidth(x, rng(3), 100)
    assert median_bandwidth(x, rng(3), 100) != median_bandwidth(x, rng(4), 100)


def test_repeated_mmd_is_reproducible_shuffled_and_spread():
    x, y = normal(200, 2, 0), normal(200, 2, 1, shift=1.0)
    x = x[x[:, 0].argsort()]  # a sorted set: first points are not a sample of it

    def call(seed: int):
        return repeated_mmd(generated=x, reference=y, bandwidth=1.0, size=50, repeats=60, generator=rng(seed))

    result = call(0)
    assert result == call(0)
    assert result != call(1)
    assert result.sd > 0
    whole = mmd(generated=x, reference=y, bandwidth=1.0)
    assert result.mean == pytest.approx(whole, abs=4 * result.sd / math.sqrt(60))
    head = mmd(generated=x[:50], reference=y[:50], bandwidth=1.0)
    assert abs(head - whole) > 10 * result.sd / math.sqrt(60)


def test_repeated_mmd_of_two_repeats_is_their_mean_and_gap():
    x, y, generator = normal(20, 2, 0), normal(9, 2, 1), rng(5)
    values = []
    for _ in range(2):
        subsets = [points[torch.randperm(len(points), generator=generator)[:8]] for points in (x, y)]
        values.append(mmd(generated=subsets[0], reference=subsets[1], bandwidth=1.0))
    result = repeated_mmd(generated=x, reference=y, bandwidth=1.0, size=8, repeats=2, generator=rng(5))
    assert result.mean == pytest.approx(sum(values) / 2)
    assert result.sd == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))


# Classifier two-sample test


@pytest.mark.parametrize("classifier", sorted(CLASSIFIERS))
def test_c2st_is_half_on_one_law_and_one_on_separated_sets(classifier: str):
    x, y = normal(200, 3, 0), normal(200, 3, 1)
    # The AUC of 200 against 200 points of one law has a standard deviation of about 0.03.
    same = c2st_auc(generated=x, reference=y, folds=3, classifier=classifier)
    assert same == pytest.approx(0.5, abs=0.1)
    assert c2st_auc(generated=x + 20, reference=y, folds=3, classifier=classifier) == 1.0


def test_c2st_has_expectation_half_on_one_law_even_for_few_points():
    values = [
        c2st_auc(generated=normal(15, 2, i), reference=normal(15, 2, 1000 + i), folds=3) for i in range(40)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=4 * float(np.std(values)) / math.sqrt(40))


@pytest.mark.parametrize("classifier", sorted(CLASSIFIERS))
def test_c2st_is_symmetric_up_to_the_folds(classifier: str):
    x, y = normal(250, 1, 2), normal(150, 1, 3, shift=1.5)
    forward = c2st_auc(generated=x, reference=y, folds=3, classifier=classifier)
    backward = c2st_auc(generated=y, reference=x, folds=3, classifier=classifier)
    assert forward == pytest.approx(backward, abs=0.03)


def test_logistic_c2st_approaches_the_best_auc_of_a_shift():
    """For N(0, 1) against N(s, 1) the likelihood ratio has AUC Phi(s / sqrt 2)."""
    best = 0.5 * (1 + math.erf(1 / 2))
    value = c2st_auc(generated=normal(2000, 1, 4, shift=1.0), reference=normal(2000, 1, 5))
    assert value == pytest.approx(best, abs=0.02)


def test_an_auc_with_ties_is_that_of_scikit_learn_and_of_all_pairs():
    x, y = (torch.randint(4, (n,), generator=rng(n)).numpy() for n in (40, 30))
    auc, _ = auc_with_variance(x, y)
    pairs = np.sign(x[:, None].astype(float) - y[None])
    assert auc == pytest.approx(float((pairs + 1).mean() / 2))
    assert auc == pytest.approx(roc_auc_score(np.repeat([1, 0], [40, 30]), np.concatenate([x, y])))


def test_the_variance_of_an_auc_is_that_over_draws():
    """Continuous scores of one law: (n + m + 1) / (12 n m), of Wilcoxon's rank sum."""
    n, m, generator = 60, 90, np.random.default_rng(0)
    draws = [auc_with_variance(generator.normal(size=n), generator.normal(size=m)) for _ in range(600)]
    exact = (n + m + 1) / (12 * n * m)
    assert float(np.mean([variance for _, variance in draws])) == pytest.approx(exact, rel=0.03)
    assert float(np.var([auc for auc, _ in draws])) == pytest.approx(exact, rel=0.15)
    assert auc_with_variance(np.ones(3), np.zeros(1)) == (1.0, 0.0)


def test_the_interval_of_a_held_out_c2st_holds_a_half_on_one_law_as_often_as_promised():
    tests = [held_out_c2st(generated=normal(80, 2, i), reference=normal(80, 2, 1000 + i)) for i in range(150)]
    held = sum(abs(test.auc - 0.5) <= 1.96 * test.standard_error for test in tests)
    assert 0.89 <= held / len(tests) < 1
    assert held_out_c2st(generated=normal(80, 2, 0), reference=normal(80, 2, 1000)) == tests[0]


def test_a_held_out_c2st_finds_the_best_auc_of_a_shift_within_its_error():
    test = held_out_c2st(generated=normal(2000, 1, 4, shift=1.0), reference=normal(2000, 1, 5))
    exact = (1 + math.erf(0.5)) / 2  # Phi(1 / sqrt 2)
    assert abs(test.auc - exact) < 3 * test.standard_error < 0.04


def test_c2st_classifiers_differ_in_what_they_see():
    """Equal means and another scale: nothing for the logistic, plenty for the others."""
    sets: dict[str, Any] = {"generated": normal(200, 2, 6, scale=4.0), "reference": normal(200, 2, 7)}
    assert c2st_auc(**sets, classifier="logistic") == pytest.approx(0.5, abs=0.1)
    assert c2st_auc(**sets, classifier="forest") > 0.8
    assert c2st_auc(**sets, classifier="knn") > 0.8


def test_c2st_logistic_ignores_the_scale_of_a_feature_and_repeats_exactly():
    x, y = normal(100, 2, 8), normal(100, 2, 9, shift=0.3)
    scale = torch.tensor([1e6, 1e-6])
    value = c2st_auc(generated=x, reference=y, seed=3)
    assert c2st_auc(generated=x, reference=y, seed=3) == value
    scaled = c2st_auc(generated=x * scale, reference=y * scale, seed=3)
    assert scaled == pytest.approx(value, abs=1e-3)


# Total variation


def test_total_variation_by_hand():
    assert total_variation([0.5, 0.3, 0.2], [0.2, 0.3, 0.5]) == pytest.approx(0.3)
    assert total_variation([1.0, 0.0], [0.0, 1.0]) == 1.0
    assert total_variation([0.25] * 4, [0.25] * 4) == 0.0


# Inputs


def test_arrays_tensors_and_read_only_arrays_give_the_same_value():
    x, y = normal(30, 3, 0), normal(20, 3, 1)
    array = y.numpy().copy()
    array.flags.writeable = False
    value = frechet_distance(generated=x, reference=y)
    assert frechet_distance(generated=x.numpy(), reference=array) == value
    assert frechet_distance(generated=x.clone().requires_grad_(), reference=y) == value


GOOD = normal(30, 3, 0)
BROKEN = GOOD.clone()
BROKEN[3, 1] = math.nan
INFINITE = GOOD.clone()
INFINITE[0, 0] = math.inf
BAD_SETS = [
    (torch.empty(0, 3), "0 generated points"),
    (normal(30, 4), "width 4 and 3"),
    (BROKEN, "in 1 of 30 generated points"),
    (INFINITE, "NaN or infinite"),
    (torch.zeros(30), r"x.flatten\(1\)"),
    (torch.zeros(30, 1, 3), r"expected features \[n, d\]"),
]
DISTANCES = {
    "frechet": frechet_distance,
    "mmd": lambda **sets: mmd(**sets, bandwidth=1.0),
    "repeated": lambda **sets: repeated_mmd(**sets, bandwidth=1.0, size=5, repeats=2, generator=rng()),
    "c2st": c2st_auc,
}


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
@pytest.mark.parametrize(("bad", "message"), BAD_SETS)
def test_bad_sets_are_refused(distance, bad: Tensor, message: str):
    with pytest.raises(InputError, match=message):
        distance(generated=bad, reference=GOOD)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_one_point_is_too_few_and_sets_go_by_name(distance):
    with pytest.raises(InputError, match="got 1 reference points"):
        distance(generated=GOOD, reference=GOOD[:1])
    with pytest.raises(TypeError):
        distance(GOOD, GOOD)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan, math.inf])
def test_impossible_bandwidths_are_refused(bandwidth: float):
    with pytest.raises(InputError, match="median_bandwidth"):
        mmd(generated=GOOD, reference=GOOD, bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("size", "repeats", "message"),
    [(5, 1, "repeats=1"), (1, 5, "size=1"), (31, 5, "size=31"), (30, 5, "every repeat is the same")],
)
def test_impossible_repeats_are_refused(size: int, repeats: int, message: str):
    with pytest.raises(InputError, match=message):
        repeated_mmd(
            generated=GOOD, reference=GOOD, bandwidth=1.0, size=size, repeats=repeats, generator=rng()
        )


def test_impossible_options_are_refused():
    with pytest.raises(InputError, match="one of forest, knn, logistic"):
        c2st_auc(generated=GOOD, reference=GOOD, classifier="svm")
    with pytest.raises(InputError, match=r"classifier='svm'"):
        held_out_c2st(generated=GOOD, reference=GOOD, classifier="svm")
    with pytest.raises(InputError, match="folds=1"):
        c2st_auc(generated=GOOD, reference=GOOD, folds=1)
    with pytest.raises(InputError, match="at least 5"):
        c2st_auc(generated=GOOD[:4], reference=GOOD)
    with pytest.raises(InputError, match="coincide"):
        median_bandwidth(torch.ones(5, 2), rng())
    with pytest.raises(InputError, match="max_points=1"):
        median_bandwidth(GOOD, rng(), max_points=1)


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        ([0.5, 0.5], [1.0], "length 2 and 1"),
        ([], [], "k >= 1"),
        ([0.5, 0.6], [0.5, 0.5], "sum to 1.1"),
        ([1.5, -0.5], [0.5, 0.5], "minimum -0.5"),
        ([math.nan, 1.0], [0.5, 0.5], "sum to nan"),
    ],
)
def test_what_is_no_distribution_is_refused(p, q, message: str):
    with pytest.raises(InputError, match=message):
        total_variation(p, q)
