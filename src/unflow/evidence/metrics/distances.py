"""How far apart two sets of features are: Fréchet distance, kernel MMD, a classifier's AUC.

Features come in as [n, d], are taken to float64 on the CPU (so that a value does not depend on the
device), and leave as one number. Calls name the two sets: ``generated=``, ``reference=``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from unflow.ground.errors import InputError

BLOCK_ENTRIES = 2**20
"""Entries of a distance matrix held at a time, whatever the sets' sizes: 8 MiB in float64.

Blocks that the allocator keeps between two; larger ones it takes from the system anew, page by page.
"""


def as_double(values: ArrayLike) -> Tensor:
    """Return values as a float64 tensor on the CPU, outside any graph."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64)
    return torch.from_numpy(np.array(values, dtype=np.float64))


def as_features(values: ArrayLike, name: str, at_least: int = 1) -> Tensor:
    """Return features as float64, shape [n, d].

    Args:
        values: the features, shape [n, d].
        name: what the caller calls them, for messages.
        at_least: the fewest points that the caller can use.

    Raises:
        InputError: for another number of axes, fewer points, NaN or infinite values.
    """
    features = as_double(values)
    if features.ndim != 2 or features.shape[1] == 0:
        raise InputError(
            f"got {name} of shape {list(features.shape)}; expected features [n, d]: "
            "write x.flatten(1), or x[:, None] for one number per sample"
        )
    if len(features) < at_least:
        raise InputError(
            f"got {len(features)} {name} points; expected at least {at_least}: draw more samples"
        )
    if not torch.isfinite(features).all():
        broken = int((~torch.isfinite(features)).any(1).sum())
        raise InputError(
            f"got NaN or infinite values in {broken} of {len(features)} {name} points; expected "
            "finite features: check the model and the extractor that made them"
        )
    return features


def require_same_width(first: Tensor, second: Tensor, names: str) -> None:
    """Raise InputError unless two sets of features [n, d], [m, d] have the same d."""
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"got {names} features of width {first.shape[1]} and {second.shape[1]}; expected the "
            "same width: use one extractor for both"
        )


def as_feature_pair(generated: ArrayLike, reference: ArrayLike, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Return both sets as float64, shapes [n, d] and [m, d].

    Raises:
        InputError: as ``as_features``, and for two widths.
    """
    x = as_features(generated, "generated", at_least)
    y = as_features(reference, "reference", at_least)
    require_same_width(x, y, "generated and reference")
    return x, y


def distance_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, ||x_i - y_j|| for i in rows): the distance matrix [n, m] in bounded memory."""
    step = max(1, BLOCK_ENTRIES // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        yield rows, torch.cdist(x[rows], y)


def frechet_distance(*, generated: ArrayLike, reference: ArrayLike) -> float:
    r"""Squared Fréchet distance between the Gaussians with the two sets' means and covariances.

        ||m_x - m_y||^2 + tr(C_x) + tr(C_y) - 2 tr((C_x C_y)^{1/2})      (arXiv 1706.08500)

    Called FID only for features of Inception-v3: name the extractor beside it. Covariances have the
    divisor n - 1; the value is biased upwards by an amount that falls with n, so compare equal n.

    Args:
        generated: features, shape [n, d], n >= 2.
        reference: features, shape [m, d], m >= 2; n or m under d is fine.

    Returns:
        A number >= 0, in squared feature units.

    Raises:
        InputError: for fewer than two points, different widths, NaN or infinite values.
    """
    x, y = as_feature_pair(generated, reference, at_least=2)
    R_x, R_y = _covariance_factor(x), _covariance_factor(y)
    # tr (C_x C_y)^{1/2} = sum of the singular values of R_x R_y': the covariances are never formed,
    # so a rank below d costs no square root of rounding errors.
    fidelity = torch.linalg.svdvals(R_x @ R_y.T).sum()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    distance = gap + R_x.square().sum() + R_y.square().sum() - 2 * fidelity
    return max(float(distance), 0.0)  # below 0 by rounding only


def _covariance_factor(x: Tensor) -> Tensor:
    """Return R [min(n, d), d] with R'R = C, the covariance of x [n, d] (divisor n - 1)."""
    R: Tensor = torch.linalg.qr(x - x.mean(0), mode="r").R
    return R / math.sqrt(len(x) - 1)


def mmd(*, generated: ArrayLike, reference: ArrayLike, bandwidth: float, unbiased: bool = True) -> float:
    r"""Squared maximum mean discrepancy with a Gaussian kernel.

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(a, b) = exp(-||a - b||^2 / (2 sigma^2))

    (Gretton et al., JMLR 13, 2012, equations 3 and 5). Unbiased: pairs i = j left out, so that the
    mean over draws is exact and single values may be negative. Biased: all pairs, never negative.

    Args:
        generated: features, shape [n, d], n >= 2.
        reference: features, shape [m, d], m >= 2.
        bandwidth: sigma > 0, in feature units; see ``median_bandwidth``.
        unbiased: False for the biased estimate that some papers print.

    Returns:
        A number in [-2, 2], or [0, 2] if biased.

    Raises:
        InputError: for bandwidth <= 0, fewer than two points, different widths, NaN.
    """
    x, y = as_feature_pair(generated, reference, at_least=2)
    _require_bandwidth(bandwidth)
    value = (
        _mean_kernel_within(x, bandwidth, unbiased)
        + _mean_kernel_within(y, bandwidth, unbiased)
        - 2 * _kernel_sum(x, y, bandwidth) / (len(x) * len(y))
    )
    return value if unbiased else max(value, 0.0)  # biased: below 0 by rounding only


def _require_bandwidth(bandwidth: float) -> None:
    if not (bandwidth > 0 and math.isfinite(bandwidth)):
        raise InputError(
            f"got bandwidth={bandwidth}; expected a finite number > 0: write "
            "bandwidth=median_bandwidth(reference, generator)"
        )


def _kernel_sum(x: Tensor, y: Tensor, bandwidth: float) -> float:
    return sum(
        float(distance.square_().div_(-2 * bandwidth**2).exp_().sum())
        for _, distance in distance_blocks(x, y)
    )


def _mean_kernel_within(x: Tensor, bandwidth: float, unbiased: bool) -> float:
    total, n = _kernel_sum(x, x, bandwidth), len(x)
    return (total - n) / (n * (n - 1)) if unbiased else total / n**2  # k(x, x) = 1


def median_bandwidth(reference: ArrayLike, generator: torch.Generator, max_points: int = 2000) -> float:
    """Median of ||y - y'|| over pairs of reference points (Gretton et al., JMLR 13, 2012).

    Take it once, on held-out data, and store it: an MMD means something only beside its bandwidth.

    Args:
        reference: features, shape [m, d], m >= 2.
        generator: draws the points used where m exceeds ``max_points``.
        max_points: how many points at most, >= 2.

    Returns:
        A number > 0, in feature units.

    Raises:
        InputError: for fewer than two points, NaN, or a median distance of 0.
    """
    y = as_features(reference, "reference", at_least=2)
    if max_points < 2:
        raise InputError(f"got max_points={max_points}; expected 2 or more")
    if len(y) > max_points:
        y = _subset(y, max_points, generator)
    median = float(torch.quantile(torch.pdist(y), 0.5))
    if median == 0.0:
        raise InputError(
            "got reference points of which half the pairs coincide (median distance 0); expected "
            "points that differ: give the bandwidth as a number"
        )
    return median


class RepeatedMMD(NamedTuple):
    """Unbiased MMD^2 over random subsets."""

    mean: float
    """Mean over the repeats."""
    sd: float
    """Standard deviation of one repeat (divisor repeats - 1); not of the mean."""


def repeated_mmd(
    *,
    generated: ArrayLike,
    reference: ArrayLike,
    bandwidth: float,
    size: int,
    repeats: int,
    generator: torch.Generator,
) -> RepeatedMMD:
    """Mean and standard deviation of the unbiased MMD^2 over random shuffled subsets of both sets.

    Subsets are drawn without replacement within a repeat and anew for each: they overlap, so the
    standard deviation is too small where ``size`` is not well below both sets' sizes.

    Args:
        generated: features, shape [n, d].
        reference: features, shape [m, d].
        bandwidth: as in ``mmd``.
        size: points taken from each set in each repeat, from 2 to min(n, m).
        repeats: number of repeats, >= 2.
        generator: draws the subsets.

    Raises:
        InputError: as ``mmd``, for a size or number of repeats out of range, and for size = n = m,
            where every repeat is the same and the standard deviation is not measured.
    """
    x, y = as_feature_pair(generated, reference, at_least=2)
    _require_bandwidth(bandwidth)
    if repeats < 2:
        raise InputError(f"got repeats={repeats}; expected 2 or more, or call mmd for one value")
    if not 2 <= size <= min(len(x), len(y)):
        raise InputError(
            f"got size={size} for {len(x)} generated and {len(y)} reference points; expected a "
            f"size from 2 to {min(len(x), len(y))}"
        )
    if size == len(x) == len(y):
        raise InputError(
            f"got size={size}, all points of both sets, so that every repeat is the same; expected "
            f"a smaller size (like {max(2, size // 2)}), or call mmd for one value"
        )
    values = [
        mmd(generated=_subset(x, size, generator), reference=_subset(y, size, generator), bandwidth=bandwidth)
        for _ in range(repeats)
    ]
    return RepeatedMMD(float(np.mean(values)), float(np.std(values, ddof=1)))


def _subset(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(x), generator=generator, device=generator.device)
    return x[order[:size].to(x.device)]


def _logistic(num_train: int, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _forest(num_train: int, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, min_samples_leaf=5, random_state=seed)


def _knn(num_train: int, seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(n_neighbors=math.isqrt(num_train))


CLASSIFIERS: dict[str, Callable[[int, int], Any]] = {"logistic": _logistic, "forest": _forest, "knn": _knn}
"""Name -> (number of training points, seed) -> a scikit-learn classifier."""


def c2st_auc(
    *, generated: ArrayLike, reference: ArrayLike, folds: int = 5, seed: int = 0, classifier: str = "logistic"
) -> float:
    """Classifier two-sample test: cross-fitted AUC of telling generated from reference points.

        AUC = P(score of a generated point > score of a reference point)

    over points that the classifier was not fitted on (arXiv 1610.06545, there with the accuracy,
    which depends on n : m). It is taken within each fold and averaged: its expectation for equal
    laws is then exactly 0.5. Scores pooled over folds come from classifiers with different offsets,
    and two points of different folds each helped to fit the other's: that tends to under 0.5.

    ``logistic`` sees a shift of the means only, ``forest`` also shapes and interactions, ``knn``
    (sqrt(n) neighbours, as in arXiv 1610.06545) local density. A row that stands in both sets, or
    has a twin in the other, pulls ``forest`` and ``knn`` below 0.5.

    Args:
        generated: features, shape [n, d], n >= folds.
        reference: features, shape [m, d], m >= folds.
        folds: number of shuffled stratified folds, >= 2; scaling is fitted inside each.
        seed: of the folds and of the forest.
        classifier: ``logistic``, ``forest`` or ``knn``.

    Returns:
        A number in [0, 1]: about 0.5 for sets that it cannot tell apart, 1 for separated sets.

    Raises:
        InputError: for an unknown classifier, folds < 2, fewer points than folds, different widths,
            NaN.
    """
    require_classifier(classifier)
    if folds < 2:
        raise InputError(f"got folds={folds}; expected 2 or more")
    features, labels = labelled(*as_feature_pair(generated, reference, at_least=folds))
    return float(np.mean(_fold_aucs(features, labels, folds, seed, CLASSIFIERS[classifier])))


def require_classifier(name: str) -> None:
    """Raise InputError for a name that is not in ``CLASSIFIERS``."""
    if name not in CLASSIFIERS:
        raise InputError(f"got classifier={name!r}; expected one of {', '.join(sorted(CLASSIFIERS))}")


def labelled(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of both sets, and 1 for those of the first, 0 for those of the second."""
    return torch.cat([x, y]).numpy(), np.repeat([1, 0], [len(x), len(y)])


def _fold_aucs(
    features: np.ndarray, labels: np.ndarray, folds: int, seed: int, new_classifier: Callable[[int, int], Any]
) -> list[float]:
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    aucs = []
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, labels)
    for train, test in splits:
        scores = held_out_scores(features, labels, train, test, new_classifier, seed)
        aucs.append(float(roc_auc_score(labels[test], scores)))
    return aucs


def held_out_scores(
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    new_classifier: Callable[[int, int], Any],
    seed: int,
) -> np.ndarray:
    """Return P(generated) of the test rows by a classifier, and a scaling, of the training rows."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    judge = make_pipeline(StandardScaler(), new_classifier(len(train), seed))
    judge.fit(features[train], labels[train])
    return np.asarray(judge.predict_proba(features[test])[:, 1])


def total_variation(p: ArrayLike, q: ArrayLike) -> float:
    """Total variation distance of two probability vectors, 1/2 sum_i |p_i - q_i|.

    Args:
        p: probabilities, shape [k], summing to 1 within 1e-5.
        q: probabilities, shape [k].

    Returns:
        A number in [0, 1].

    Raises:
        InputError: for different lengths, empty vectors, or numbers that are no probabilities.
    """
    p, q = _as_distribution(p), _as_distribution(q)
    if len(p) != len(q):
        raise InputError(
            f"got probability vectors of length {len(p)} and {len(q)}; expected the same classes"
        )
    return float((p - q).abs().sum() / 2)


def _as_distribution(values: ArrayLike) -> Tensor:
    p = as_double(values)
    if p.ndim != 1 or len(p) == 0:
        raise InputError(f"got probabilities of shape {list(p.shape)}; expected one vector [k], k >= 1")
    total = float(p.sum())
    if not ((p >= 0).all() and abs(total - 1) <= 1e-5):
        raise InputError(
            f"got numbers that sum to {total:g} with minimum {float(p.min()):g}; expected "
            "probabilities >= 0 that sum to 1: divide counts by their sum"
        )
    return p
