"""How far apart two sets of features are: Fréchet distance, kernel MMD, a classifier's AUC.

Every function takes features [n, d] and returns one number. It computes in float64 on the CPU, so that the
number does not depend on the device. The two sets are passed by name: ``generated=``, ``reference=``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unflow.ground.errors import InputError

Array = Tensor | np.ndarray
"""Features and labels come as tensors of any device, or as NumPy arrays."""

BLOCK_ENTRIES = 2**20
"""Most entries of a distance matrix in memory at a time: 8 MiB in float64.

The allocator reuses blocks of this size; it requests larger ones from the system again, page by page.
"""


def as_double(values: ArrayLike) -> Float[Tensor, "*shape"]:
    """Return values as a float64 tensor on the CPU, detached from the autograd graph."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64)
    return torch.from_numpy(np.array(values, dtype=np.float64))


def as_features(values: Float[Array, "n d"], name: str, at_least: int = 1) -> Float[Tensor, "n d"]:
    """Return features as float64, shape [n, d].

    Args:
        values: the features, shape [n, d].
        name: the name of the features in error messages.
        at_least: the smallest number of points that the caller accepts.

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


def require_same_width(first: Float[Tensor, "n d"], second: Float[Tensor, "m e"], names: str) -> None:
    """Raise InputError unless two sets of features [n, d] and [m, e] have the same width, d = e."""
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"got {names} features of width {first.shape[1]} and {second.shape[1]}; expected the "
            "same width: use one extractor for both"
        )


def as_feature_pair(
    generated: Float[Array, "n d"], reference: Float[Array, "m d"], at_least: int = 1
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Return both sets as float64, shapes [n, d] and [m, d].

    Raises:
        InputError: as ``as_features``, and for different widths.
    """
    x = as_features(generated, "generated", at_least)
    y = as_features(reference, "reference", at_least)
    require_same_width(x, y, "generated and reference")
    return x, y


def distance_blocks(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> Iterator[tuple[slice, Float[Tensor, "rows m"]]]:
    """Yield the distance matrix [n, m] in blocks of rows: (rows, ||x_i - y_j|| for i in rows)."""
    step = max(1, BLOCK_ENTRIES // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        yield rows, torch.cdist(x[rows], y)


def frechet_distance(*, generated: Float[Array, "n d"], reference: Float[Array, "m d"]) -> float:
    r"""Squared Fréchet distance between the Gaussians with the two sets' means and covariances.

        ||m_x - m_y||^2 + tr(C_x) + tr(C_y) - 2 tr((C_x C_y)^{1/2})      (arXiv 1706.08500)

    It is called FID only for features of Inception-v3: report the extractor with the value. Covariances
    have the divisor n - 1. The value is biased upwards; the bias falls with n, so compare equal n.

    Args:
        generated: features, shape [n, d], n >= 2.
        reference: features, shape [m, d], m >= 2; n and m may be smaller than d.

    Returns:
        A number >= 0, in squared feature units.

    Raises:
        InputError: for fewer than two points, different widths, NaN or infinite values.
    """
    x, y = as_feature_pair(generated, reference, at_least=2)
    R_x, R_y = _covariance_factor(x), _covariance_factor(y)
    # tr (C_x C_y)^{1/2} = sum of the singular values of R_x R_y'. The covariances are never formed,
    # so a rank below d causes no square root of rounding errors.
    fidelity = torch.linalg.svdvals(R_x @ R_y.T).sum()
    gap = (x.mean(0) - y.mean(0)).square().sum()
    distance = gap + R_x.square().sum() + R_y.square().sum() - 2 * fidelity
    return max(float(distance), 0.0)  # negative only by rounding


def _covariance_factor(x: Tensor) -> Tensor:
    """Return R [min(n, d), d] with R'R = C, the covariance of x [n, d] (divisor n - 1)."""
    R: Tensor = torch.linalg.qr(x - x.mean(0), mode="r").R
    return R / math.sqrt(len(x) - 1)


def mmd(
    *, generated: Float[Array, "n d"], reference: Float[Array, "m d"], bandwidth: float, unbiased: bool = True
) -> float:
    r"""Squared maximum mean discrepancy with a Gaussian kernel.

        MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(a, b) = exp(-||a - b||^2 / (2 sigma^2))

    (Gretton et al., JMLR 13, 2012, equations 3 and 5). The unbiased estimate omits the pairs i = j: its
    expectation is exact, and single values may be negative. The biased estimate uses all pairs and is >= 0.

    Args:
        generated: features, shape [n, d], n >= 2.
        reference: features, shape [m, d], m >= 2.
        bandwidth: sigma > 0, in feature units; see ``median_bandwidth``.
        unbiased: False for the biased estimate, which some papers report.

    Returns:
        A number in [-2, 2], or in [0, 2] if biased.

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
    return value if unbiased else max(value, 0.0)  # biased: negative only by rounding


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


def median_bandwidth(
    reference: Float[Array, "m d"], generator: torch.Generator, max_points: int = 2000
) -> float:
    """Median of ||y - y'|| over pairs of reference points (Gretton et al., JMLR 13, 2012).

    Compute it once, on held-out data, and store it: MMDs can only be compared at the same bandwidth.

    Args:
        reference: features, shape [m, d], m >= 2.
        generator: draws the subset of points if m exceeds ``max_points``.
        max_points: largest number of points to use, >= 2.

    Returns:
        A number > 0, in feature units.

    Raises:
        InputError: for fewer than two points, NaN, or a median distance of 0.
    """
    y = as_features(reference, "reference", at_least=2)
    if max_points < 2:
        raise InputError(f"got max_points={max_points}; expected 2 or more")
    if len(y) > max_points:
        y = _draw_subset(y, max_points, generator)
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
    """Standard deviation of one repeat (divisor repeats - 1), not of the mean."""


def repeated_mmd(
    *,
    generated: Float[Array, "n d"],
    reference: Float[Array, "m d"],
    bandwidth: float,
    size: int,
    repeats: int,
    generator: torch.Generator,
) -> RepeatedMMD:
    """Mean and standard deviation of the unbiased MMD^2 over random shuffled subsets of both sets.

    Each repeat draws its own subsets, without replacement. The subsets of different repeats overlap, so
    the standard deviation is too small unless ``size`` is well below n and m.

    Args:
        generated: features, shape [n, d].
        reference: features, shape [m, d].
        bandwidth: as in ``mmd``.
        size: points taken from each set in each repeat, from 2 to min(n, m).
        repeats: number of repeats, >= 2.
        generator: draws the subsets.

    Raises:
        InputError: as ``mmd``, for a size or number of repeats out of range, and for size = n = m
            (every repeat is then the same, and there is no standard deviation).
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
        mmd(
            generated=_draw_subset(x, size, generator),
            reference=_draw_subset(y, size, generator),
            bandwidth=bandwidth,
        )
        for _ in range(repeats)
    ]
    return RepeatedMMD(float(np.mean(values)), float(np.std(values, ddof=1)))


def _draw_subset(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(x), generator=generator, device=generator.device)
    return x[order[:size].to(x.device)]


def _new_logistic(num_train: int, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _new_forest(num_train: int, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, min_samples_leaf=5, random_state=seed)


def _new_knn(num_train: int, seed: int) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(n_neighbors=math.isqrt(num_train))


def _new_mlp(num_train: int, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier

    stops = {"early_stopping": num_train >= 40, "n_iter_no_change": 5, "max_iter": 50}
    steps = {"batch_size": min(max(num_train // 16, 1), 128), "learning_rate_init": 3e-3, "alpha": 0.01}
    return MLPClassifier((128,), **steps, **stops, random_state=seed)


CLASSIFIERS: dict[str, Callable[[int, int], Any]] = {
    "logistic": _new_logistic,
    "forest": _new_forest,
    "knn": _new_knn,
    "mlp": _new_mlp,
}
"""Name -> (number of training points, seed) -> a scikit-learn classifier."""


def c2st_auc(
    *,
    generated: Float[Array, "n d"],
    reference: Float[Array, "m d"],
    folds: int = 5,
    seed: int = 0,
    classifier: str = "logistic",
) -> float:
    """Classifier two-sample test: cross-fitted AUC of generated against reference points.

        AUC = P(score of a generated point > score of a reference point)

    over points that the classifier was not fitted on. arXiv 1610.06545 uses the accuracy instead, which
    depends on n : m. The AUC is computed within each fold and averaged, so that its expectation for equal
    laws is exactly 0.5. Pooled scores would come from classifiers with different offsets, each fitted on the
    other folds' points, and their AUC would tend to be below 0.5.

    ``logistic`` detects a shift of the means only. ``forest`` and ``mlp``, a network with one hidden layer,
    also detect shapes and interactions, and ``knn`` (sqrt(n) neighbours, as in arXiv 1610.06545) local
    density. Rows that occur in both sets pull the AUC of ``forest`` and ``knn`` below 0.5.

    Args:
        generated: features, shape [n, d], n >= folds.
        reference: features, shape [m, d], m >= folds.
        folds: number of shuffled stratified folds, >= 2; features are standardised within each fold.
        seed: of the folds and of the forest.
        classifier: ``logistic``, ``forest``, ``knn`` or ``mlp``.

    Returns:
        A number in [0, 1]: about 0.5 if the classifier cannot distinguish the sets, 1 for separated sets.

    Raises:
        InputError: for an unknown classifier, folds < 2, fewer points than folds, different widths, NaN.
    """
    require_classifier(classifier)
    if folds < 2:
        raise InputError(f"got folds={folds}; expected 2 or more")
    features, labels = stack_labelled(*as_feature_pair(generated, reference, at_least=folds))
    return float(np.mean(_fold_aucs(features, labels, folds, seed, CLASSIFIERS[classifier])))


def require_classifier(name: str) -> None:
    """Raise InputError for a name that is not in ``CLASSIFIERS``."""
    if name not in CLASSIFIERS:
        raise InputError(f"got classifier={name!r}; expected one of {', '.join(sorted(CLASSIFIERS))}")


def stack_labelled(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> tuple[Float[np.ndarray, "n+m d"], Int[np.ndarray, " n+m"]]:
    """Return the rows of both sets, and their labels: 1 for the first set, 0 for the second."""
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
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
    new_classifier: Callable[[int, int], Any],
    seed: int,
) -> Float[np.ndarray, " test"]:
    """Fit scaling and classifier on the training rows; return P(generated) of the test rows."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    judge = make_pipeline(StandardScaler(), new_classifier(len(train), seed))
    with warnings.catch_warnings():
        # The test is valid for a network whose steps are limited; that of the other classifiers warns.
        warnings.filterwarnings("ignore", "Stochastic Optimizer", ConvergenceWarning)
        judge.fit(features[train], labels[train])
    return np.asarray(judge.predict_proba(features[test])[:, 1])


def total_variation(
    p: Float[Array, " k"] | Sequence[float], q: Float[Array, " k"] | Sequence[float]
) -> float:
    """Total variation distance of two probability vectors, 1/2 sum_i |p_i - q_i|.

    Args:
        p: probabilities, shape [k], summing to 1 within 1e-5.
        q: probabilities, shape [k].

    Returns:
        A number in [0, 1].

    Raises:
        InputError: for different lengths, empty vectors, or numbers that are not probabilities.
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
