"""The outputs of classifiers: logits of every class, and the refusal of probabilities in their place."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unflow.ground.errors import InputError

ROUNDING = 0.01
"""How far a row of probabilities may sum from 1: the rounding of half precision with 1,000 classes."""
ENOUGH = 64
"""Rows that show probabilities which need not sum to 1: logits of so many samples are not all in [0, 1]."""


def binary_logits(logit: Float[Tensor, " batch"]) -> Float[Tensor, " batch 2"]:
    """Return logits of the classes 0 and 1, [batch, 2], whose difference is ``logit`` [batch]."""
    return torch.stack([torch.zeros_like(logit), logit], dim=1)


def logits_of_classes(outputs: Float[Tensor, " batch *classes"]) -> Float[Tensor, " batch *classes"]:
    """Return logits with one column for each class: one number per sample is the logit of class 1 of two."""
    is_one = outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)
    return binary_logits(outputs.flatten()) if is_one else outputs


def check_logits(outputs: Float[Tensor, " batch *classes"]) -> None:
    """Raise InputError for outputs of a classifier that are probabilities and not logits.

    Probabilities are rows >= 0 with one sum (1 for a softmax, 100 for percents), and from ``ENOUGH`` rows on
    also numbers in [0, 1] (a sigmoid for each class). Log-probabilities are logits.

    Args:
        outputs: one row for each sample; one number per sample is the output of a classifier of two classes.
    """
    found = find_probabilities(outputs)
    if found is not None:
        raise InputError(
            f"the classifier returned {found} for {len(outputs)} samples, which are probabilities; expected "
            "logits: return the numbers before the softmax or sigmoid, or write output=probabilities in the "
            "specification of the classifier"
        )


def find_probabilities(outputs: Tensor) -> str | None:
    """Return what makes outputs probabilities, in words; None for logits."""
    if outputs.ndim not in (1, 2) or len(outputs) < 2 or not bool((outputs >= 0).all()):
        return None
    is_many, columns = len(outputs) >= ENOUGH, outputs.float().reshape(len(outputs), -1)
    columns = columns[:, (columns != 0).any(0)]  # a column of zeros is the first logit of ``binary_logits``
    if columns.shape[1] == 0:
        return None
    most, sums = float(columns.max()), columns.sum(1)
    total = float(sums.mean())
    one_sum = columns.shape[1] > 1 and bool(((sums - total).abs() <= ROUNDING * total).all())
    if one_sum and abs(total - 1) <= ROUNDING:
        return "rows in [0, 1] that sum to 1"
    is_spread = float((columns > 0).sum(1).double().median()) >= 2  # 9 x one-hot are logits of a rule
    if one_sum and is_many and is_spread and bool((columns != columns[:1]).any()):
        return f"rows of numbers >= 0 that all sum to {total:.4g}"
    return f"only numbers in [0, 1] (at most {most:.3g})" if is_many and most <= 1 else None
