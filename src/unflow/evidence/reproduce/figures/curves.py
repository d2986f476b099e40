"""Curves of one metric against another: checks, and the Pareto frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.checks import as_array, require_some
from unflow.ground.errors import InputError

MOST = 14
"""Curves in one picture."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A method's values at each strength.

    Attributes:
        strengths: shape [k], in any order; points are joined from the smallest to the largest.
        x: the cost at each strength, shape [k]: less is better. NaN: not measured.
        y: percent at each strength, shape [k], at most 100: more is better. NaN: not measured.
        default: one of ``strengths``, drawn with a larger mark.
    """

    strengths: Sequence[float]
    x: Sequence[float]
    y: Sequence[float]
    default: float


@dataclass(frozen=True)
class Track:
    """A checked curve.

    Attributes:
        name: name of the method.
        points: x and y in order of strength, shape [k, 2].
        default: row of the default.
    """

    name: str
    points: NDArray[Any]
    default: int

    @property
    def gaps(self) -> int:
        """Number of points that were not measured."""
        return int((~is_measured(self.points)).sum())


def as_tracks(curves: Mapping[str, Curve]) -> list[Track]:
    """Return checked curves, each in order of strength."""
    require_some(curves, "curves")
    if len(curves) > MOST:
        raise InputError(f"got {len(curves)} curves; expected at most {MOST}")
    return [_make_track(name, curve) for name, curve in curves.items()]


def as_point(name: str, point: tuple[float, float]) -> NDArray[Any]:
    """Return x and y of a reference point, shape [2]."""
    found = _check_range(as_array(point, (2,), f"x and y of {name!r}"), name)
    if not is_measured(found):
        raise InputError(f"got NaN for {name!r}; expected a measured point: leave it out")
    return found


def is_measured(points: NDArray[Any]) -> Any:
    """Return whether each point [..., 2] has two finite numbers."""
    return np.isfinite(points).all(-1)


def find_frontier(points: NDArray[Any]) -> NDArray[Any]:
    """Return whether each of the points [n, 2] is on the Pareto frontier, bool [n].

    (u, v) dominates (x, y) if u <= x and v >= y, and one of them strictly. A point with NaN dominates no
    other point and is not on the frontier.
    """
    x, y = points[:, 0], points[:, 1]
    as_good = (x[None] <= x[:, None]) & (y[None] >= y[:, None])
    better = as_good & ((x[None] < x[:, None]) | (y[None] > y[:, None]))
    frontier: NDArray[Any] = is_measured(points) & ~better.any(1)
    return frontier


def _make_track(name: str, curve: Curve) -> Track:
    strengths = as_array(curve.strengths, (None,), f"strengths of {name!r}")
    if not np.isfinite(strengths).all():
        raise InputError(f"got a strength of {name!r} that is not finite; expected numbers")
    if curve.default not in strengths:
        raise InputError(
            f"got the default strength {curve.default} of {name!r}; expected one of {strengths.tolist()}"
        )
    order = np.argsort(strengths, kind="stable")
    both = [
        as_array(v, strengths.shape, f"{axis} of {name!r}") for axis, v in (("x", curve.x), ("y", curve.y))
    ]
    points = _check_range(np.stack(both, 1)[order], name)
    if not is_measured(points).any():
        raise InputError(f"got no measured point of {name!r}; expected 1 or more: leave the method out")
    return Track(name, points, int(np.flatnonzero(strengths[order] == curve.default)[0]))


def _check_range(points: NDArray[Any], name: str) -> NDArray[Any]:
    if np.isinf(points).any():
        raise InputError(f"got an infinite number for {name!r}; expected finite ones, or NaN for a gap")
    if (points[..., 1] > 100).any():
        raise InputError(f"got {np.nanmax(points[..., 1]):g} for {name!r}; expected percent, at most 100")
    return points
