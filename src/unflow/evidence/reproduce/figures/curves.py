"""Curves of one measure against another: what was measured, and who is on the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.checks import as_array, need_some
from unflow.ground.errors import InputError

MOST = 14
"""Curves in one picture."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a method reaches at each strength.

    Attributes:
        strengths: shape [k], in any order; points are joined from the smallest to the largest.
        x: the price at each strength, shape [k]: less is better. NaN was not measured.
        y: percent at each strength, shape [k], at most 100: more is better. NaN was not measured.
        default: the one of ``strengths`` that is marked larger.
    """

    strengths: Sequence[float]
    x: Sequence[float]
    y: Sequence[float]
    default: float


@dataclass(frozen=True)
class Track:
    """A checked curve.

    Attributes:
        name: of the method.
        points: x and y in order of strength, shape [k, 2].
        default: row of the default.
    """

    name: str
    points: NDArray[Any]
    default: int

    @property
    def gaps(self) -> int:
        """How many points were not measured."""
        return int((~measured(self.points)).sum())


def as_tracks(curves: Mapping[str, Curve]) -> list[Track]:
    """Return checked curves, each in order of strength."""
    need_some(curves, "curves")
    if len(curves) > MOST:
        raise InputError(f"got {len(curves)} curves; expected at most {MOST}")
    return [_track(name, curve) for name, curve in curves.items()]


def as_point(name: str, point: tuple[float, float]) -> NDArray[Any]:
    """Return x and y of a reference point, shape [2]."""
    found = _within(as_array(point, (2,), f"x and y of {name!r}"), name)
    if not measured(found):
        raise InputError(f"got NaN for {name!r}; expected a measured point: leave it out")
    return found


def measured(points: NDArray[Any]) -> Any:
    """Return which points [..., 2] have both their numbers."""
    return np.isfinite(points).all(-1)


def on_frontier(points: NDArray[Any]) -> NDArray[Any]:
    """Return which of the points [n, 2] no other one beats, bool [n].

    (x, y) is beaten by (u, v) if u <= x and v >= y, and one of them strictly; NaN beats nobody and
    is on no frontier.
    """
    x, y = points[:, 0], points[:, 1]
    as_good = (x[None] <= x[:, None]) & (y[None] >= y[:, None])
    better = as_good & ((x[None] < x[:, None]) | (y[None] > y[:, None]))
    return measured(points) & ~better.any(1)


def _track(name: str, curve: Curve) -> Track:
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
    points = _within(np.stack(both, 1)[order], name)
    if not measured(points).any():
        raise InputError(f"got no measured point of {name!r}; expected 1 or more: leave the method out")
    return Track(name, points, int(np.flatnonzero(strengths[order] == curve.default)[0]))


def _within(points: NDArray[Any], name: str) -> NDArray[Any]:
    if np.isinf(points).any():
        raise InputError(f"got an infinite number for {name!r}; expected finite ones, or NaN for a gap")
    if (points[..., 1] > 100).any():
        raise InputError(f"got {np.nanmax(points[..., 1]):g} for {name!r}; expected percent, at most 100")
    return points
