"""How far a judge can be trusted: whether it is as sure as it is right, and whether another agrees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike

from unflow.evidence.metrics.forgetting import as_probabilities, is_forgotten
from unflow.evidence.metrics.redistribution import as_labels
from unflow.ground.errors import InputError


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    r"""Return the expected calibration error of the judge's own choice (arXiv 1706.04599, Eq. 3).

        sum_b n_b / n |accuracy_b - confidence_b|,    bins of equal width in confidence

    Args:
        probabilities: of the judge, shape [n, num_classes], rows summing to 1.
        labels: true classes, integers [n].
        bins: >= 1.

    Returns:
        A number in [0, 1]; it is biased upwards by about sqrt(bins / n).

    Raises:
        InputError: as ``forget_rate``, for unknown classes, other lengths, or bins < 1.
    """
    p = as_probabilities(probabilities)
    y = as_labels(labels, "labels", p.shape[1])
    if len(y) != len(p) or bins < 1:
        raise InputError(
            f"got {len(p)} probabilities, {len(y)} labels, bins={bins}; expected as many, 1 bin or more"
        )
    confidence, choice = p.max(1)
    gap = (choice == y).double() - confidence
    which = (confidence * bins).long().clamp(max=bins - 1)
    return float(torch.zeros(bins, dtype=gap.dtype).index_add(0, which, gap).abs().sum() / len(y))


def disagreement(first: ArrayLike, second: ArrayLike, forget: Sequence[int] | None = None) -> float:
    """Return the share of samples that two judges put in different classes.

    Args:
        first: classes by one judge, integers [n].
        second: classes by the other, of the same samples.
        forget: if given, only whether a class is forgotten counts.

    Raises:
        InputError: for different lengths, no labels, or other than integers.
    """
    a, b = as_labels(first, "first"), as_labels(second, "second")
    if len(a) != len(b):
        raise InputError(f"got {len(a)} and {len(b)} judged samples; expected both for the same samples")
    if forget is not None:
        a, b = (is_forgotten(labels, forget) for labels in (a, b))
    return float((a != b).double().mean())
