"""Classifier two-sample test on a held-out half, with the standard error of its AUC."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unflow.evidence.metrics.auc import AUC, measure_auc
from unflow.evidence.metrics.distances import (
    CLASSIFIERS,
    Array,
    as_double,
    as_feature_pair,
    held_out_scores,
    require_classifier,
    stack_labelled,
)

COMPONENTS = 64
"""Principal components of the samples in ``appearance_c2st``."""
APPEARANCE_ROWS = 1500
"""Samples of each side in ``appearance_c2st``."""

C2ST = AUC
"""A classifier two-sample test on held-out points: the AUC of the fitted classifier."""


def held_out_c2st(
    *,
    generated: Float[Array, "n d"],
    reference: Float[Array, "m d"],
    seed: int = 0,
    classifier: str = "logistic",
) -> C2ST:
    """Fit a classifier on half of both sets, and return its AUC on the other halves.

    ``c2st_auc`` tests on every point and varies less. Its folds share training points, though, so one run
    gives no standard error of it.

    Args:
        generated: features, shape [n, d], n >= 4.
        reference: features, shape [m, d], m >= 4.
        seed: of the halves and of the forest.
        classifier: as in ``c2st_auc``.

    Raises:
        InputError: for an unknown classifier, fewer than 4 points, different widths, NaN.
    """
    return measure_auc(
        *score_held_out(generated=generated, reference=reference, seed=seed, classifier=classifier)
    )


def score_held_out(
    *, generated: Float[Array, "n d"], reference: Float[Array, "m d"], seed: int, classifier: str = "logistic"
) -> tuple[Float[np.ndarray, " n/2"], Float[np.ndarray, " m/2"]]:
    """Fit a classifier on half of both sets; return P(generated) of the other halves of each.

    Sets of the same sizes are halved alike, whatever their features.

    Args:
        generated: as in ``held_out_c2st``.
        reference: as in ``held_out_c2st``.
        seed: as in ``held_out_c2st``.
        classifier: as in ``c2st_auc``.

    Raises:
        InputError: as ``held_out_c2st``.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    require_classifier(classifier)
    features, labels = stack_labelled(*as_feature_pair(generated, reference, at_least=4))
    halves = StratifiedShuffleSplit(1, test_size=0.5, random_state=seed)
    train, test = next(halves.split(features, labels))
    scores = held_out_scores(features, labels, train, test, CLASSIFIERS[classifier], seed)
    return scores[labels[test] == 1], scores[labels[test] == 0]


def appearance_c2st(
    *,
    generated: tuple[Float[Array, "n d"], Float[Tensor, " n *shape"]],
    reference: tuple[Float[Array, "m d"], Float[Tensor, " m *shape"]],
    seed: int = 0,
) -> C2ST:
    """Fit a network on features and pixels of half of both sets, and return its AUC on the other halves.

    A sample's inputs are its features, its first ``COMPONENTS`` principal components, and its distance from
    the plane that they span, where blur, noise and the artefacts of a decoder are. The components are those
    of both sets together, so they do not know which set a sample is from. The network has one hidden layer
    of 128 units. At most ``APPEARANCE_ROWS`` samples of each set are used.

    Args:
        generated: features [n, d] and samples [n, *shape], n >= 4.
        reference: features [m, d] and samples [m, *shape], m >= 4.
        seed: of the halves and of the network.

    Raises:
        InputError: for fewer than 4 samples, different widths, NaN.
    """
    features = [as_double(part[0][:APPEARANCE_ROWS]) for part in (generated, reference)]
    pixels = [as_double(part[1][:APPEARANCE_ROWS]).flatten(1) for part in (generated, reference)]
    looks = torch.split(_project(torch.cat(pixels), seed), [len(part) for part in pixels])
    ours, theirs = (torch.cat(columns, 1) for columns in zip(features, looks, strict=True))
    return held_out_c2st(generated=ours, reference=theirs, seed=seed, classifier="mlp")


def _project(x: Float[Tensor, "n d"], seed: int) -> Float[Tensor, "n columns"]:
    """Return the principal components of x and the distance from their span; x itself if it is short."""
    from sklearn.decomposition import PCA

    if min(x.shape) <= COMPONENTS:
        return x
    components = torch.as_tensor(PCA(COMPONENTS, random_state=seed).fit_transform(x.numpy()))
    left = (x - x.mean(0)).square().sum(1) - components.square().sum(1)
    return torch.cat([components, left.clamp(min=0).sqrt()[:, None]], 1)
