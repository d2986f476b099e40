"""Where the mass of the forgotten classes went: class counts, retained shares, moves per latent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from unflow.evidence.metrics.distances import Array, total_variation
from unflow.evidence.metrics.forgetting import check_request
from unflow.ground.errors import InputError


def class_counts(labels: Int[Array, " n"] | Sequence[int], num_classes: int) -> list[int]:
    """Return the number of samples that the judge assigns to each class, num_classes numbers.

    Args:
        labels: judged classes, integers [n] in 0..num_classes-1.
        num_classes: number of classes that the judge knows.

    Raises:
        InputError: for no labels, labels that are not integers, or unknown classes.
    """
    return torch.bincount(as_labels(labels, "labels", num_classes), minlength=num_classes).tolist()


def retained_share_tv(counts: Sequence[int], reference_counts: Sequence[int], forget: Sequence[int]) -> float:
    """Total variation between two models' class shares among the retained classes.

        1/2 sum_{c retained} |s_c - r_c|,    s_c = counts_c / sum_{c' retained} counts_c'

    It is 0 if the retained classes keep their proportions. The forgotten classes do not count.

    Args:
        counts: samples per class, num_classes numbers.
        reference_counts: the same for exact target samples, or for a retrained model.
        forget: class indices.

    Returns:
        A number in [0, 1].

    Raises:
        InputError: for different lengths, negative counts, an impossible request, or no sample in
            any retained class (the shares are then undefined).
    """
    if len(counts) != len(reference_counts):
        raise InputError(
            f"got counts of {len(counts)} and {len(reference_counts)} classes; expected the same"
        )
    check_request(forget, len(counts))
    return total_variation(
        _retained_shares(counts, forget, "counts"),
        _retained_shares(reference_counts, forget, "reference_counts"),
    )


def transition_matrix(
    before: Int[Array, " n"] | Sequence[int], after: Int[Array, " n"] | Sequence[int], num_classes: int
) -> Int[Tensor, "num_classes num_classes"]:
    """Count moves between classes: M[i, j] = number of z with class i of G0(z) and class j of G(z).

    Rows sum to the class counts before, columns to those after. Use it only if both models map the same
    latent to comparable samples. A retrained model does not: it learns a different map.

    Args:
        before: judged classes of G0(z), integers [n].
        after: judged classes of G(z) for the same z in the same order, integers [n].
        num_classes: number of classes that the judge knows.

    Returns:
        Integers, shape [num_classes, num_classes].

    Raises:
        InputError: for different lengths, no labels, labels that are not integers, or unknown classes.
    """
    i, j = _as_label_pair(before, after, num_classes)
    return torch.bincount(i * num_classes + j, minlength=num_classes**2).view(num_classes, -1)


def stayed_share(
    before: Int[Array, " n"] | Sequence[int], after: Int[Array, " n"] | Sequence[int], forget: Sequence[int]
) -> float:
    """Share of the latents of a retained class whose judged class stays the same.

        P( c(G(z)) = c(G0(z))  |  c(G0(z)) retained )

    Args:
        before: judged classes of G0(z), integers [n].
        after: judged classes of G(z) for the same z in the same order, integers [n].
        forget: class indices.

    Returns:
        A number in [0, 1]; 1 if no latent of a retained class changes its class.

    Raises:
        InputError: for different lengths, no labels, labels that are not integers, an empty request, or
            no sample in a retained class before.
    """
    i, j = _as_label_pair(before, after)
    if len(forget) == 0:
        raise InputError("got forget=[]; expected at least one class, like [3]")
    retained = ~torch.isin(i, torch.tensor(list(forget)))
    if not retained.any():
        raise InputError(
            f"got {len(i)} samples before, all in the forgotten classes {list(forget)}; expected "
            "some in a retained class: check forget and the judge"
        )
    return float((i == j)[retained].double().mean())


def _retained_shares(counts: Sequence[int], forget: Sequence[int], name: str) -> Tensor:
    retained = torch.tensor([n for c, n in enumerate(counts) if c not in forget], dtype=torch.float64)
    if not (retained >= 0).all():
        raise InputError(f"got {name}={list(counts)}; expected numbers of samples >= 0")
    if retained.sum() == 0:
        raise InputError(
            f"got {name}={list(counts)} with no sample outside the forgotten classes "
            f"{list(forget)}; expected some in a retained class"
        )
    return retained / retained.sum()


def as_labels(
    labels: Int[Array, " n"] | Sequence[int], name: str, num_classes: int | None = None
) -> Int[Tensor, " n"]:
    """Return judged classes as integers [n]; raise InputError for anything else, or unknown classes."""
    values = labels.cpu() if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    if values.numel() == 0:
        raise InputError(f"got no {name}; expected one class per sample, at least one")
    if values.ndim != 1 or values.dtype == torch.bool or values.dtype.is_floating_point:
        raise InputError(
            f"got {name} of type {values.dtype} and shape {list(values.shape)}; expected integers "
            "[n]: write probabilities.argmax(1)"
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        top = "" if num_classes is None else f" to {num_classes - 1}"
        raise InputError(f"got {name} from {low} to {high}; expected classes from 0{top}")
    return values.long()


def _as_label_pair(
    before: Array | Sequence[int], after: Array | Sequence[int], num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    i, j = as_labels(before, "before", num_classes), as_labels(after, "after", num_classes)
    if len(i) != len(j):
        raise InputError(
            f"got {len(i)} classes before and {len(j)} after; expected both for the same latents"
        )
    return i, j
