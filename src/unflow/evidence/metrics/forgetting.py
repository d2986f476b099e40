"""How much of the forgotten classes is left, by an independent judge.

Compare a rate with the judge's rate on exact target samples and on a retrained model. A lower rate than
theirs is over-forgetting, not success.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unflow.energies import check_classes
from unflow.evidence.metrics.distances import Array, as_double
from unflow.ground.errors import InputError


def check_request(forget: Sequence[int], num_classes: int) -> None:
    """Raise InputError unless ``forget`` lists at least one known class, none twice, and not all."""
    if len(forget) == 0 or len(set(forget)) != len(forget):
        raise InputError(f"got forget={list(forget)}; expected at least one class and none twice, like [3]")
    check_classes(forget, num_classes)


def forget_rate(probabilities: Float[Array, "n num_classes"], forget: Sequence[int]) -> float:
    """Share of samples that the judge assigns to a forgotten class, P(argmax_c p(c | x) in forget).

    Args:
        probabilities: the judge's probabilities, shape [n, num_classes], rows summing to 1.
        forget: class indices.

    Returns:
        A rate in [0, 1].

    Raises:
        InputError: for no samples, NaN, rows that are not probabilities, or an impossible request.
    """
    p = as_probabilities(probabilities)
    check_request(forget, p.shape[1])
    return float(is_forgotten(p.argmax(1), forget).double().mean())


def is_forgotten(labels: Int[Tensor, " n"], forget: Sequence[int]) -> Bool[Tensor, " n"]:
    """Return whether each judged class [n] is among the classes to forget, booleans [n]."""
    return torch.isin(labels, torch.tensor(list(forget), device=labels.device))


def leakage(probabilities: Float[Array, "n num_classes"], forget: Sequence[int]) -> float:
    """Mean probability that the judge assigns to the forgotten classes, E sum_{c in forget} p(c | x).

    Args:
        probabilities: the judge's probabilities, shape [n, num_classes], rows summing to 1.
        forget: class indices.

    Returns:
        A rate in [0, 1]. It exceeds ``forget_rate`` if traces of the forgotten classes remain in samples
        that the judge assigns to other classes.

    Raises:
        InputError: as ``forget_rate``.
    """
    p = as_probabilities(probabilities)
    check_request(forget, p.shape[1])
    return float(p[:, list(forget)].sum(1).mean())


def judge_confidence(probabilities: Float[Array, "n num_classes"]) -> float:
    """Mean probability of the judge's predicted class, E max_c p(c | x).

    A low value warns that the samples belong to no class: a low forget rate may then mean a broken model.

    Args:
        probabilities: the judge's probabilities, shape [n, num_classes], rows summing to 1.

    Returns:
        A rate in [1/num_classes, 1].

    Raises:
        InputError: for no samples, NaN, or rows that are not probabilities.
    """
    return float(as_probabilities(probabilities).amax(1).mean())


def pul(num_original: int, num_unlearned: int) -> float | None:
    """Percentage of unlearning, (n_original - n_unlearned) / n_original * 100 (arXiv 2603.16489).

    Args:
        num_original: number of the original model's samples judged forgotten, >= 0.
        num_unlearned: number of the unlearned model's samples judged forgotten, among as many samples.

    Returns:
        Percent, at most 100. Negative if the forgotten class grew. None if the original had no forgotten
        sample.

    Raises:
        InputError: for negative counts.
    """
    if num_original < 0 or num_unlearned < 0:
        raise InputError(f"got counts {num_original} and {num_unlearned}; expected numbers of samples >= 0")
    if num_original == 0:
        return None
    return (num_original - num_unlearned) / num_original * 100


def as_probabilities(probabilities: Float[Array, "n num_classes"]) -> Float[Tensor, "n num_classes"]:
    """Return a judge's probabilities as float64, [n, num_classes]; raise InputError for anything else."""
    p = as_double(probabilities)
    if p.ndim != 2 or p.shape[1] < 2:
        raise InputError(
            f"got judge probabilities of shape {list(p.shape)}; expected [n, num_classes] with two "
            "classes or more"
        )
    if len(p) == 0:
        raise InputError("got judge probabilities of 0 samples; expected 1 or more: draw samples")
    if not torch.isfinite(p).all():
        raise InputError(
            "got NaN or infinite judge probabilities; expected finite numbers: check the samples"
        )
    # 1e-3 accepts a half-precision softmax and rejects raw logits.
    if bool((p < 0).any()) or float((p.sum(1) - 1).abs().max()) > 1e-3:
        raise InputError(
            "got judge probabilities that are negative or do not sum to 1 in each row; expected "
            "probabilities: write logits.softmax(1)"
        )
    return p
