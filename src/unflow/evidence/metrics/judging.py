"""How reliable a judge is: its calibration, and its agreement with a second judge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from unflow.evidence.metrics.distances import Array
from unflow.evidence.metrics.forgetting import as_probabilities, is_forgotten
from unflow.evidence.metrics.redistribution import as_labels
from unflow.ground.errors import InputError


def calibration_error(
    probabilities: Float[Array, "n num_classes"], labels: Int[Array, " n"] | Sequence[int], bins: int = 15
) -> float:
    r"""Return the expected calibration error of the judge's predicted class (arXiv 1706.04599, Eq. 3).

        sum_b n_b / n |accuracy_b - confidence_b|,    bins of equal width in confidence

    Args:
        probabilities: the judge's probabilities, shape [n, num_classes], rows summing to 1.
        labels: true classes, integers [n].
        bins: >= 1.

    Returns:
        A number in [0, 1], biased upwards by about sqrt(bins / n).

    Raises:
        InputError: as ``forget_rate``, for unknown classes, different lengths, or bins < 1.
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


def disagreement(
    first: Int[Array, " n"] | Sequence[int],
    second: Int[Array, " n"] | Sequence[int],
    forget: Sequence[int] | None = None,
) -> float:
    """Return the share of samples to which two judges assign different classes.

    Args:
        first: classes predicted by one judge, integers [n].
        second: classes predicted by the other judge for the same samples, integers [n].
        forget: class indices; if given, only compare whether the class is among them.

    Raises:
        InputError: for different lengths, no labels, or labels that are not integers.
    """
    a, b = as_labels(first, "first"), as_labels(second, "second")
    if len(a) != len(b):
        raise InputError(f"got {len(a)} and {len(b)} judged samples; expected both for the same samples")
    if forget is not None:
        a, b = (is_forgotten(labels, forget) for labels in (a, b))
    return float((a != b).double().mean())
