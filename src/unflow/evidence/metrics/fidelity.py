"""Whether samples lie on the data, and whether they cover it, by nearest-neighbour balls.

The ball of a point is closed, and its radius is the distance to the point's k-th nearest neighbour in its
own set. The union of the balls estimates the set's support. For fakes x_1..x_n and reals y_1..y_m:

    precision   share of fakes inside some real ball
    recall      share of reals inside some fake ball
    density     mean number of real balls around a fake, over k
    coverage    share of real balls with a fake inside

Exchanging the sets exchanges precision and recall, so the arguments are passed by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unflow.evidence.metrics.distances import Array, as_features, distance_blocks, require_same_width
from unflow.ground.errors import InputError


@dataclass(frozen=True, eq=False)
class Manifold:
    """Points with the distance to the k-th nearest other point of each (arXiv 1904.06991, eq. 1).

    Build it once from the reference features, and use it for every row of a table.
    """

    points: Float[Tensor, "m d"]
    """Features, [m, d], float64."""
    radii: Float[Tensor, " m"]
    """Distance to the k-th nearest other point, [m]."""
    k: int
    """Index of the neighbour, from 1."""

    @classmethod
    def from_features(cls, features: Float[Array, "m d"], k: int = 5, name: str = "reference") -> Manifold:
        """Return the manifold of features [m, d]; error messages call them ``name``.

        Raises:
            InputError: for k < 1, fewer than k + 1 points, NaN or infinite values.
        """
        if k < 1:
            raise InputError(f"got k={k} for the nearest neighbour; expected 1 or more, like 5")
        points = as_features(features, name, at_least=k + 1)
        # The nearest point is the point itself, at distance 0: the k-th other point is the (k+1)-th.
        radii = torch.cat(
            [
                distance.topk(k + 1, dim=1, largest=False).values[:, k]
                for _, distance in distance_blocks(points, points)
            ]
        )
        return cls(points, radii, k)

    def contains(self, x: Float[Array, "n d"]) -> Bool[Tensor, " n"]:
        """Return whether each x lies in some ball: booleans [n] for features [n, d].

        Raises:
            InputError: for another width, no points, NaN or infinite values.
        """
        return _count_balls(as_features(x, "generated"), self).per_point > 0


class PrecisionRecall(NamedTuple):
    """Improved precision and recall."""

    precision: float
    """Share of generated points inside the reference manifold, in [0, 1]."""
    recall: float
    """Share of reference points inside the generated manifold, in [0, 1]."""


class DensityCoverage(NamedTuple):
    """Density and coverage."""

    density: float
    """Mean number of reference balls around a generated point, divided by k: >= 0, 1 for equal laws."""
    coverage: float
    """Share of reference balls with a generated point inside, in [0, 1]. For equal laws its mean is
    1 - prod_{i=1..k} (m - i) / (m + n - i), about 1 - 2^-k for n = m."""


class Fidelity(NamedTuple):
    """The four metrics of ``PrecisionRecall`` and ``DensityCoverage``."""

    precision: float
    """In [0, 1]."""
    recall: float
    """In [0, 1]."""
    density: float
    """>= 0."""
    coverage: float
    """In [0, 1]."""


class _Balls(NamedTuple):
    per_point: Tensor
    """Number of balls that contain each point, [n]."""
    hit: Tensor
    """Whether each ball contains some point, booleans [m]."""


def fidelity(
    *, generated: Float[Array, "n d"], reference: Float[Array, "m d"] | Manifold, k: int = 5
) -> Fidelity:
    r"""Precision, recall, density and coverage, with one distance matrix for all four.

        precision = 1/n sum_i 1[x_i in some B(y_j)]     recall   = 1/m sum_j 1[y_j in some B(x_i)]
        density   = 1/(k n) sum_ij 1[x_i in B(y_j)]     coverage = 1/m sum_j 1[some x_i in B(y_j)]

    B(p) is the closed ball around p whose radius is the distance to the k-th nearest neighbour of p in its
    own set (arXiv 1904.06991, equations 1-2; arXiv 2002.09797, Section 3). Values depend on k, n and m.

    Args:
        generated: features, shape [n, d], n > k.
        reference: features, shape [m, d], m > k, or their ``Manifold``.
        k: index of the neighbour, >= 1.

    Raises:
        InputError: for fewer than k + 1 points, different widths, NaN, or a manifold of another k.
    """
    real = _as_manifold(reference, k)
    fake = Manifold.from_features(generated, k, "generated")
    require_same_width(fake.points, real.points, "generated and reference")
    balls_around = torch.zeros(len(fake.points), dtype=torch.long)
    covered = torch.zeros(len(real.points), dtype=torch.bool)
    recalled = torch.zeros_like(covered)
    for rows, distance in distance_blocks(fake.points, real.points):
        in_real_ball = distance <= real.radii
        balls_around[rows] = in_real_ball.sum(1)
        covered |= in_real_ball.any(0)
        recalled |= (distance <= fake.radii[rows, None]).any(0)
    return Fidelity(
        precision=_mean(balls_around > 0),
        recall=_mean(recalled),
        density=_mean(balls_around) / k,
        coverage=_mean(covered),
    )


def precision_recall(
    *, generated: Float[Array, "n d"], reference: Float[Array, "m d"] | Manifold, k: int = 5
) -> PrecisionRecall:
    """Improved precision and recall (arXiv 1904.06991, equations 1-2); see ``fidelity``.

    Raises:
        InputError: as ``fidelity``.
    """
    result = fidelity(generated=generated, reference=reference, k=k)
    return PrecisionRecall(result.precision, result.recall)


def density_coverage(
    *, generated: Float[Array, "n d"], reference: Float[Array, "m d"] | Manifold, k: int = 5
) -> DensityCoverage:
    """Density and coverage (arXiv 2002.09797, Section 3); see ``fidelity``.

    Neither uses neighbours among the generated points: one generated point is enough.

    Raises:
        InputError: as ``fidelity``, for an empty generated set.
    """
    balls = _count_balls(as_features(generated, "generated"), _as_manifold(reference, k))
    return DensityCoverage(_mean(balls.per_point) / k, _mean(balls.hit))


def covered(
    *, generated: Float[Array, "n d"], reference: Float[Array, "m d"] | Manifold, k: int = 5
) -> Bool[Tensor, " m"]:
    """Return whether each reference ball contains a generated point, booleans [m]; ``coverage`` is the mean.

    Args:
        generated: features, shape [n, d].
        reference: features, shape [m, d], or their ``Manifold``.
        k: index of the neighbour, >= 1.

    Raises:
        InputError: as ``density_coverage``.
    """
    return _count_balls(as_features(generated, "generated"), _as_manifold(reference, k)).hit


def coverage(
    *,
    generated: Float[Array, "n d"],
    reference: Float[Array, "m d"] | Manifold,
    k: int = 5,
    subset: Bool[Array, " m"] | None = None,
) -> float:
    """Share of reference balls with a generated point inside (arXiv 2002.09797, Section 3).

    Args:
        generated: features, shape [n, d].
        reference: features, shape [m, d], or their ``Manifold``.
        k: index of the neighbour, >= 1.
        subset: booleans [m], the reference points to count, for example those of one class. The balls are
            still those of the whole reference, so the mean over classes, weighted by their sizes, is the
            coverage of the whole.

    Returns:
        A number in [0, 1].

    Raises:
        InputError: as ``density_coverage``, and for a subset that is empty or of another length.
    """
    hit = covered(generated=generated, reference=reference, k=k)
    return _mean(hit if subset is None else hit[_as_mask(subset, len(hit))])


def off_data(
    *,
    samples: Float[Array, "n d"],
    training: Float[Array, "m d"],
    held_out: Float[Array, "l d"],
    quantile: float = 0.99,
) -> float:
    """Share of samples whose nearest training point is farther away than for most held-out points.

        P( min_j ||x - t_j|| > r ),    r: the ``quantile`` of min_j ||h - t_j|| over held-out h

    Samples of the data distribution give about 1 - quantile. Include both the retain set and the forget set
    in the training points; otherwise remaining samples of a forgotten class count as off the data.

    Args:
        samples: features, shape [n, d].
        training: features, shape [m, d].
        held_out: features, shape [l, d], none of them among the training points. The quantile is
            interpolated, so use l >= 1 / (1 - quantile).
        quantile: in (0, 1).

    Returns:
        A number in [0, 1].

    Raises:
        InputError: for an empty set, different widths, NaN, a quantile outside (0, 1), or held-out
            points that coincide with training points.
    """
    if not 0 < quantile < 1:
        raise InputError(f"got quantile={quantile}; expected a number inside (0, 1), like 0.99")
    x = as_features(samples, "samples")
    train = as_features(training, "training")
    held = as_features(held_out, "held_out")
    require_same_width(x, train, "samples and training")
    require_same_width(held, train, "held_out and training")
    reach = torch.quantile(_nearest_distance(held, train), quantile)
    if reach == 0:
        raise InputError(
            f"got held_out points of which {quantile:.0%} are training points; expected data that "
            "the model was not trained on: split the data first"
        )
    return _mean(_nearest_distance(x, train) > reach)


def _nearest_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return min_j ||x_i - y_j||, shape [n]; exactly 0 if x_i equals some y_j."""
    nearest = torch.cat([distance.argmin(1) for _, distance in distance_blocks(x, y)])
    distances: Tensor = (x - y[nearest]).norm(dim=1)
    return distances


def _as_manifold(reference: Array | Manifold, k: int) -> Manifold:
    if not isinstance(reference, Manifold):
        return Manifold.from_features(reference, k)
    if reference.k != k:
        raise InputError(
            f"got k={k} with a reference manifold built for k={reference.k}; expected the same k: "
            f"write k={reference.k}, or Manifold.from_features(features, k={k})"
        )
    return reference


def _count_balls(points: Tensor, manifold: Manifold) -> _Balls:
    require_same_width(points, manifold.points, "generated and reference")
    per_point = torch.zeros(len(points), dtype=torch.long)
    hit = torch.zeros(len(manifold.points), dtype=torch.bool)
    for rows, distance in distance_blocks(points, manifold.points):
        inside = distance <= manifold.radii
        per_point[rows] = inside.sum(1)
        hit |= inside.any(0)
    return _Balls(per_point, hit)


def _as_mask(subset: Array, length: int) -> Tensor:
    mask = subset.cpu() if isinstance(subset, Tensor) else torch.from_numpy(np.array(subset))
    if mask.dtype != torch.bool or mask.shape != (length,):
        raise InputError(
            f"got a subset of type {mask.dtype} and shape {list(mask.shape)}; expected booleans "
            f"[{length}], one per reference point: write subset=labels == 3"
        )
    if not mask.any():
        raise InputError("got a subset without any reference point; expected at least one")
    return mask


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
