"""Rates of the judge, by hand."""

import math

import numpy as np
import pytest
import torch

from unflow.evidence.metrics import forget_rate, judge_confidence, leakage, pul
from unflow.ground.errors import InputError

P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3], [0.0, 0.0, 1.0]])


def test_rates_by_hand():
    assert forget_rate(P, [0]) == 2 / 4
    assert forget_rate(P, [1, 2]) == 2 / 4
    assert leakage(P, [0]) == pytest.approx((0.7 + 0.1 + 0.4 + 0.0) / 4)
    assert leakage(P, [1, 2]) == pytest.approx(1 - leakage(P, [0]))
    assert judge_confidence(P) == pytest.approx((0.7 + 0.8 + 0.4 + 1.0) / 4)


def test_rates_of_complementary_requests_sum_to_one():
    p = torch.rand(200, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    for rate in (forget_rate, leakage):
        assert rate(p, [0, 3]) + rate(p, [1, 2, 4, 5]) == pytest.approx(1)
        assert rate(p.numpy(), [0, 3]) == rate(p, (0, 3))


def test_a_sure_judge_makes_rate_and_leakage_equal():
    p = torch.eye(4)[torch.tensor([0, 1, 1, 3, 3, 3])]
    assert forget_rate(p, [1]) == leakage(p, [1]) == pytest.approx(2 / 6)
    assert judge_confidence(p) == 1.0


def test_leakage_shows_what_the_winning_class_hides():
    p = torch.tensor([[0.51, 0.49]] * 10)
    assert forget_rate(p, [1]) == 0.0
    assert leakage(p, [1]) == pytest.approx(0.49)


def test_half_precision_passes():
    p = torch.randn(50, 10, generator=torch.Generator().manual_seed(1)).softmax(1)
    assert leakage(p.half(), [2]) == pytest.approx(leakage(p, [2]), abs=1e-3)


@pytest.mark.parametrize(
    ("num_original", "num_unlearned", "percent"),
    [(200, 10, 95.0), (200, 0, 100.0), (200, 200, 0.0), (200, 300, -50.0), (0, 0, None), (0, 5, None)],
)
def test_pul(num_original: int, num_unlearned: int, percent: float | None):
    assert pul(num_original, num_unlearned) == percent


def test_pul_refuses_negative_counts():
    with pytest.raises(InputError, match="-1"):
        pul(-1, 3)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.empty(0, 3), "0 samples"),
        (torch.tensor([[0.5, math.nan, 0.5]]), "NaN"),
        (torch.tensor([[2.0, -1.0, 0.5]]), r"logits.softmax\(1\)"),
        (torch.tensor([[2.0, -1.0, 0.0]]), r"logits.softmax\(1\)"),
        (torch.tensor([0.5, 0.5]), r"shape \[2\]"),
        (np.ones((5, 1)), r"shape \[5, 1\]"),
    ],
)
@pytest.mark.parametrize("rate", [lambda p: forget_rate(p, [0]), lambda p: leakage(p, [0]), judge_confidence])
def test_what_is_no_probability_is_refused(rate, probabilities, message: str):
    with pytest.raises(InputError, match=message):
        rate(probabilities)


@pytest.mark.parametrize("rate", [forget_rate, leakage])
@pytest.mark.parametrize(
    ("forget", "message"),
    [([], "at least one"), ([1, 1], "twice"), ([3], "from 0 to 2"), ([-1], "-1"), ([0, 1, 2], "all 3")],
)
def test_impossible_requests_are_refused(rate, forget: list[int], message: str):
    with pytest.raises(InputError, match=message):
        rate(P, forget)
