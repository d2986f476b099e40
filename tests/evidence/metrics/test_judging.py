"""Calibration and disagreement of judges: exact values on small sets."""

from __future__ import annotations

import pytest
import torch

from unflow.evidence.metrics import calibration_error, disagreement
from unflow.ground.errors import InputError


def judged(*confidences: float) -> torch.Tensor:
    """Two classes; the judge says 0, this sure."""
    return torch.tensor([[c, 1 - c] for c in confidences], dtype=torch.float64)


def test_as_sure_as_right_is_no_error() -> None:
    """Sure to three quarters, and right in three of four."""
    assert calibration_error(judged(0.75, 0.75, 0.75, 0.75), [0, 0, 0, 1]) == pytest.approx(0)


def test_bins_are_weighed_by_their_samples() -> None:
    """Three at 0.9, all wrong: a gap of 0.9; one at 0.6, right: 0.4."""
    p = judged(0.9, 0.9, 0.9, 0.6)
    assert calibration_error(p, [1, 1, 1, 0], bins=10) == pytest.approx(0.75 * 0.9 + 0.25 * 0.4)


def test_within_a_bin_gaps_make_up_for_each_other() -> None:
    p = judged(0.9, 0.7)
    assert calibration_error(p, [0, 1], bins=1) == pytest.approx(0.3)
    assert calibration_error(p, [0, 1], bins=10) == pytest.approx((0.1 + 0.7) / 2)


def test_certainty_lies_in_the_last_bin() -> None:
    assert calibration_error(judged(1.0), [0]) == 0
    assert calibration_error(judged(1.0), [1]) == 1


def test_a_calibrated_judge_has_an_error_that_falls_with_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    errors = []
    for n in (200, 20_000):
        p = torch.rand(n, generator=generator, dtype=torch.float64) / 2 + 0.5
        wrong = (torch.rand(n, generator=generator) > p).long()
        errors.append(calibration_error(torch.stack([p, 1 - p], 1), wrong))
    assert errors[1] < 0.02 < errors[0]


def test_disagreement_counts_classes_or_only_the_request() -> None:
    first, second = [0, 1, 2, 2], [0, 2, 1, 2]
    assert disagreement(first, second) == 0.5
    assert disagreement(first, second, [1, 2]) == 0
    assert disagreement(first, second, [1]) == 0.5


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match=r"1 probabilities, 2 labels"):
        calibration_error(judged(0.9), [0, 1])
    with pytest.raises(InputError, match="bins=0"):
        calibration_error(judged(0.9), [0], bins=0)
    with pytest.raises(InputError, match="2 and 1 judged samples"):
        disagreement([0, 1], [0])
