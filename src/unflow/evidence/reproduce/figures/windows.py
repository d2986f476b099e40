"""The part of the plane that a panel shows, its scale, and its ticks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = (95, 90, 80)
"""Lower ends in percent of the closer panel: it takes the first that excludes no point above the last."""


@dataclass(frozen=True)
class Window:
    """A title, ranges of x and y, and whether x is logarithmic."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool

    def shows(self, points: NDArray[Any]) -> Any:
        """Return whether each of the points [..., 2] lies inside."""
        x, y = points[..., 0], points[..., 1]
        return (x >= self.x[0]) & (x <= self.x[1]) & (y >= self.y[0]) & (y <= self.y[1])

    def apply(self, axes: Axes) -> None:
        """Set the ranges of axes, and round numbers as their ticks."""
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes.set_xscale("log" if self.is_log else "linear")
        axes.set(xlim=self.x, ylim=self.y)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(FixedLocator(_choose_ticks(self.x, self.is_log)))
        axes.yaxis.set_major_locator(FixedLocator([t for t in _choose_ticks(self.y, False) if t <= 100]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:,.6g}".replace("-", "−")))


def choose_windows(points: NDArray[Any]) -> list[Window]:
    """Return a window around all points [n, 2], and a closer one if at least a third are near 100 %.

    The closer window excludes outliers: points farther from the middle half than its own length.
    """
    x, y = points.T
    is_log = bool(x.min() > 0 and x.max() >= 10 * x.min())
    high = y >= NEAR[-1]
    whole = Window("all points", _pad_range(x, is_log), _pad_percent(min(0.0, float(y.min()))), is_log)
    if high.mean() < 1 / 3:
        return [whole]
    near = next(level for level in NEAR if (y[high] >= level).all())
    closer = Window(
        f"{near} % and more", _pad_range(_drop_outliers(x[high], is_log), is_log), _pad_percent(near), is_log
    )
    return [replace(closer, x=whole.x)] if high.all() else [whole, closer]


def _drop_outliers(x: NDArray[Any], is_log: bool) -> NDArray[Any]:
    """Return the numbers whose distance to the middle half is at most the length of that half."""
    at = np.log(x) if is_log else x
    low, high = np.quantile(at, (0.25, 0.75))
    kept: NDArray[Any] = x[(at >= 2 * low - high) & (at <= 2 * high - low)]
    return kept


def _pad_range(x: NDArray[Any], is_log: bool) -> tuple[float, float]:
    """Return a range with margins around the numbers; the left one is larger, for names of references."""
    at = np.log(x) if is_log else x
    low, high = float(at.min()), float(at.max())
    length = high - low or (0.5 if is_log else 0.2 * abs(high) or 1.0)
    ends = np.array((low - 0.25 * length, high + 0.08 * length))
    left, right = np.exp(ends) if is_log else ends
    return float(left), float(right)


def _pad_percent(low: float) -> tuple[float, float]:
    return low - 0.035 * (100 - low), 100 + 0.035 * (100 - low)


def _choose_ticks(ends: tuple[float, float], is_log: bool) -> list[float]:
    """Return four to nine round numbers between two ends."""
    from matplotlib.ticker import MaxNLocator

    if is_log:
        tens = 10.0 ** np.arange(np.floor(np.log10(ends[0])), np.ceil(np.log10(ends[1])))
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 6)):
            found = [float(t * s) for t in tens for s in steps if ends[0] <= t * s <= ends[1]]
            if len(found) >= 4:
                return found
    ticks = MaxNLocator(6, steps=(1, 2, 2.5, 5, 10)).tick_values(*ends)
    return [float(t) for t in ticks if ends[0] <= t <= ends[1]]
