"""Nearest-neighbour balls: hand-made sets, a plain double loop, and exact expectations."""

import math

import pytest
import torch
from torch import Tensor

from unflow.evidence.metrics import (
    Manifold,
    coverage,
    density_coverage,
    distances,
    off_data,
    precision_recall,
)
from unflow.evidence.metrics.fidelity import Fidelity, fidelity
from unflow.ground.errors import InputError


def normal(n: int, d: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def line(*points: float) -> Tensor:
    return torch.tensor(points, dtype=torch.float64)[:, None]


def naive_fidelity(x: Tensor, y: Tensor, k: int) -> Fidelity:
    def balls(points: Tensor) -> list[tuple[Tensor, float]]:
        radii = [sorted(float((p - q).norm()) for q in points)[k] for p in points]
        return list(zip(points, radii, strict=True))

    def inside(p: Tensor, ball: tuple[Tensor, float]) -> bool:
        return float((p - ball[0]).norm()) <= ball[1]

    real, fake = balls(y), balls(x)
    return Fidelity(
        precision=sum(any(inside(p, b) for b in real) for p in x) / len(x),
        recall=sum(any(inside(p, b) for b in fake) for p in y) / len(y),
        density=sum(inside(p, b) for p in x for b in real) / (k * len(x)),
        coverage=sum(any(inside(p, b) for p in x) for b in real) / len(y),
    )


# Exact answers

# Reals 0, 1, 3, 10 with k = 1: radii 1, 1, 2, 7, balls [-1, 1], [0, 2], [1, 5], [3, 17].
REALS = line(0.0, 1.0, 3.0, 10.0)
# Fakes 0.5, 0.6, 4, 30: radii 0.1, 0.1, 3.4, 26, balls [.4, .6], [.5, .7], [.6, 7.4], [4, 56].
FAKES = line(0.5, 0.6, 4.0, 30.0)


def test_radii_by_hand():
    assert Manifold.from_features(REALS, k=1).radii.tolist() == [1.0, 1.0, 2.0, 7.0]
    assert Manifold.from_features(REALS, k=3).radii.tolist() == [10.0, 9.0, 7.0, 10.0]


def test_all_four_by_hand():
    result = fidelity(generated=FAKES, reference=REALS, k=1)
    assert result.precision == 3 / 4  # 0.5, 0.6 and 4; not 30
    assert result.recall == 3 / 4  # 1, 3 and 10; not 0
    assert result.density == (2 + 2 + 2 + 0) / 4
    assert result.coverage == 4 / 4
    assert coverage(generated=line(4.0), reference=REALS, k=1) == 2 / 4


def test_precision_and_recall_swap_with_the_sets_and_tell_collapse_from_spill():
    """The classic mistake: with the sets exchanged a collapsed model passes for a diverse one."""
    both = torch.cat([normal(100, 2, 0, shift=-20), normal(100, 2, 1, shift=20)])
    collapsed = normal(100, 2, 2, shift=20, scale=0.5)
    right = precision_recall(generated=collapsed, reference=both)
    wrong = precision_recall(generated=both, reference=collapsed)
    assert right.precision == 1.0
    assert right.recall <= 0.5
    assert (wrong.precision, wrong.recall) == (right.recall, right.precision)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_four_agree_with_a_double_loop_in_any_block_size(k: int, monkeypatch):
    x, y = normal(17, 2, 3, shift=0.5), normal(23, 2, 4)
    expected = naive_fidelity(x, y, k)
    for entries in (distances.BLOCK_ENTRIES, 50, 1):
        monkeypatch.setattr(distances, "BLOCK_ENTRIES", entries)
        assert fidelity(generated=x, reference=y, k=k) == pytest.approx(expected)


def test_the_parts_agree_with_the_whole_from_features_and_from_a_manifold():
    x, y = normal(60, 3, 5, shift=0.3), normal(50, 3, 6)
    whole = fidelity(generated=x, reference=y)
    for reference in (y, y.numpy(), Manifold.from_features(y)):
        assert fidelity(generated=x, reference=reference) == whole
        assert precision_recall(generated=x, reference=reference) == whole[:2]
        assert density_coverage(generated=x, reference=reference) == whole[2:]
        assert coverage(generated=x, reference=reference) == whole.coverage


def test_equal_sets_have_all_but_density_one():
    x = (
        2.0 ** torch.arange(20, dtype=torch.float64)[:, None]
    )  # exact distances: neighbours lie on their balls
    result = fidelity(generated=x, reference=x)
    assert (result.precision, result.recall, result.coverage) == (1.0, 1.0, 1.0)
    # Every ball holds its centre and k neighbours: density (k + 1) / k.
    assert result.density == pytest.approx(6 / 5)


def test_separated_sets_have_all_zero():
    x = normal(40, 2, 8)
    assert fidelity(generated=x + 1e3, reference=x) == (0.0, 0.0, 0.0, 0.0)


def test_expectations_on_one_law():
    """On one law E density = 1 and E coverage = 1 - prod_i (m - i)/(m + n - i), i = 1..k."""
    n, m, k, repeats = 30, 20, 3, 300
    results = [
        density_coverage(generated=normal(n, 2, i), reference=normal(m, 2, 1000 + i), k=k)
        for i in range(repeats)
    ]
    density, covered = torch.tensor(results, dtype=torch.float64).T
    exact = 1 - math.prod((m - i) / (m + n - i) for i in range(1, k + 1))
    standard_error = 4 / math.sqrt(repeats)
    assert float(density.mean()) == pytest.approx(1, abs=standard_error * float(density.std()))
    assert float(covered.mean()) == pytest.approx(exact, abs=standard_error * float(covered.std()))


def test_coverage_of_classes_averages_to_the_whole():
    y = torch.cat([normal(30, 2, 9, shift=-5), normal(50, 2, 10, shift=5)])
    labels = torch.tensor([0] * 30 + [1] * 50)
    x = normal(100, 2, 11, shift=5)
    first = coverage(generated=x, reference=y, subset=labels == 0)
    second = coverage(generated=x, reference=y, subset=(labels == 1).numpy())
    whole = coverage(generated=x, reference=y)
    assert first == 0.0
    assert second > 0.8
    assert (30 * first + 50 * second) / 80 == pytest.approx(whole)


def test_duplicates_are_found_by_closed_balls():
    """A set of copies has balls of radius 0, which still hold the copies."""
    copies = torch.ones(6, 2)
    assert fidelity(generated=copies, reference=copies) == (1.0, 1.0, 6 / 5, 1.0)
    assert density_coverage(generated=copies, reference=copies) == (6 / 5, 1.0)


def test_one_generated_point_is_enough_for_coverage_but_not_for_recall():
    y = normal(20, 2, 12)
    assert 0 < density_coverage(generated=y[:1], reference=y).coverage < 1
    with pytest.raises(InputError, match="got 1 generated points; expected at least 6"):
        precision_recall(generated=y[:1], reference=y)


# Off the data


def test_off_data_by_hand():
    training, held_out = line(0.0, 10.0), line(1.0, 12.0, 3.0)  # nearest: 1, 2, 3; median 2
    samples = line(2.0, 2.5, -1.0, 5.0, 13.0)  # nearest: 2, 2.5, 1, 5, 3
    value = off_data(samples=samples, training=training, held_out=held_out, quantile=0.5)
    assert value == 3 / 5


def test_off_data_of_the_held_out_points_is_one_minus_the_quantile():
    held_out = normal(200, 2, 13)
    value = off_data(samples=held_out, training=normal(500, 2, 14), held_out=held_out)
    assert value == pytest.approx(0.01)


def test_off_data_on_one_law_and_off_it():
    training, held_out = normal(1000, 2, 15), normal(1000, 2, 16)
    same = off_data(samples=normal(2000, 2, 17), training=training, held_out=held_out)
    assert same == pytest.approx(0.01, abs=0.01)
    away = off_data(samples=normal(500, 2, 18) + 50, training=training, held_out=held_out)
    assert away == 1.0
    assert off_data(samples=training[:50], training=training, held_out=held_out) == 0.0


def test_off_data_refuses_training_points_as_held_out():
    training = normal(100, 3, 19) * 1e3
    with pytest.raises(InputError, match="are training points"):
        off_data(samples=training, training=training, held_out=training.flip(0))


# Inputs


BROKEN = normal(20, 2)
BROKEN[0, 0] = math.nan


@pytest.mark.parametrize("metric", [fidelity, precision_recall, density_coverage, coverage])
@pytest.mark.parametrize(
    ("generated", "reference", "message"),
    [
        (torch.empty(0, 2), normal(20, 2), "got 0 generated points"),
        (normal(20, 2), torch.empty(0, 2), "got 0 reference points"),
        (normal(20, 2), normal(5, 2), "5 reference points; expected at least 6"),
        (normal(20, 3), normal(20, 2), "width 3 and 2"),
        (BROKEN, normal(20, 2), "1 of 20 generated points"),
        (normal(20, 2), BROKEN, "1 of 20 reference points"),
        (torch.zeros(20), normal(20, 2), r"\[n, d\]"),
        (normal(20, 2), Manifold.from_features(normal(20, 2), k=3), "write k=3"),
    ],
)
def test_bad_sets_are_refused(metric, generated, reference, message: str):
    with pytest.raises(InputError, match=message):
        metric(generated=generated, reference=reference)


@pytest.mark.parametrize("metric", [fidelity, precision_recall, density_coverage, coverage])
def test_sets_go_by_name_and_k_is_positive(metric):
    with pytest.raises(TypeError):
        metric(normal(20, 2), normal(20, 2))
    with pytest.raises(InputError, match="k=0"):
        metric(generated=normal(20, 2), reference=normal(20, 2), k=0)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (torch.zeros(20, dtype=torch.bool), "without any"),
        (torch.ones(19, dtype=torch.bool), r"\[19\]"),
        (torch.arange(20), "int64"),
    ],
)
def test_bad_subsets_are_refused(subset: Tensor, message: str):
    with pytest.raises(InputError, match=message):
        coverage(generated=normal(20, 2), reference=normal(20, 2), subset=subset)


def test_manifold_contains_is_precision_point_by_point():
    manifold = Manifold.from_features(REALS, k=1)
    assert manifold.contains(FAKES).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": torch.empty(0, 2)}, "0 samples points"),
        ({"training": torch.empty(0, 2)}, "0 training points"),
        ({"held_out": BROKEN}, "1 of 20 held_out points"),
        ({"samples": normal(20, 3)}, "samples and training features of width 3 and 2"),
        ({"held_out": normal(20, 3)}, "held_out and training features of width 3 and 2"),
        ({"quantile": 1.0}, "quantile=1.0"),
        ({"quantile": math.nan}, "quantile=nan"),
    ],
)
def test_bad_off_data_is_refused(change: dict, message: str):
    inputs = {"samples": normal(20, 2, 0), "training": normal(20, 2, 1)}
    with pytest.raises(InputError, match=message):
        off_data(**{**inputs, "held_out": normal(20, 2, 2), **change})
