"""Forget rate against Fréchet distance, one point per row."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unflow.evidence.measures import KNOWN
from unflow.evidence.report.scales import find_limit
from unflow.evidence.report.summary import forget_interval
from unflow.evidence.report.svg import FORGET, FOURTH, INK, KEEP, LINE, MUTED, THIRD, draw_chart
from unflow.evidence.report.words import format_number
from unflow.evidence.row import AuditRow

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

DISTANCES = ("fid_retain", "fid_target")
"""Candidates for the vertical axis; the plot uses the first that two rows have."""
COLOURS = (KEEP, FORGET, THIRD, FOURTH)
GAP = 0.062
"""Smallest distance between two lines of names beside the plot, as a share of its height."""
PLOT, LETTER, LETTERS = 2.7, 0.056, 24
"""Width of the plot and of a letter beside it in inches, and most letters of a line."""
BEYOND = 1.45
"""Where a point beyond the end of the vertical axis is drawn, as a multiple of that end."""


@dataclass(frozen=True)
class Spot:
    """One point.

    Attributes:
        name: the row's name.
        left: forget rate in percent, and the ends of its 95 % interval.
        distance: Fréchet distance.
        is_reference: whether the row is a reference.
        run: index of the run; each of several runs has its own colour.
        at: where the point is drawn; elsewhere than its values if the row is beyond the end of an axis.
    """

    name: str
    left: tuple[float, float, float]
    distance: float
    is_reference: bool
    run: int
    at: tuple[float, float] = (0.0, 0.0)

    @property
    def marker(self) -> str:
        """The shape of the point: an arrow beyond the end of an axis."""
        return "^" if self.at[1] < self.distance else ">" if self.at[0] < self.left[0] else "o"

    @property
    def words(self) -> str:
        """The name, with each value that is beyond the end of its axis."""
        words = f"{self.name} {format_number(self.left[0], 0)} % →" * (self.at[0] < self.left[0]) or self.name
        return words + f" {format_number(self.distance, 1)} ↑" * (self.at[1] < self.distance)


def draw_trade_off(rows: Sequence[tuple[str, AuditRow, int]], name: str) -> tuple[str, Markup] | None:
    """Return the caption and the plot of rows; None if fewer than two rows have a distance.

    Args:
        rows: name, row, and index of its run.
        name: unique on the page.
    """
    for distance in DISTANCES:
        found = [spot for label, row, run in rows if (spot := make_spot(label, row, run, distance))]
        if len(found) > 1:
            caption = (
                f"Forget rate against {KNOWN[distance].heading}: lower left is better; "
                "left of the exact target, a model forgets more than requested"
            )
            return caption, _draw(found, name)
    return None


def make_spot(name: str, row: AuditRow, run: int, key: str) -> Spot | None:
    """Return the point of a row; None without a forget rate or a distance > 0."""
    rate, distance = row.number("forget_rate"), row.number(key)
    if rate is None or distance is None or not distance > 0:
        return None
    low, high = forget_interval(row)
    return Spot(name, (100 * rate, 100 * low, 100 * high), distance, row.is_reference, run)


def place_spots(spots: Sequence[Spot]) -> list[Spot]:
    """Return the points with their places; those apart from all others are drawn at the ends of the axes."""
    top = find_limit([(spot.distance, spot.is_reference) for spot in spots])
    right = find_limit([(spot.left[2], spot.is_reference) for spot in spots])
    return [
        replace(
            spot,
            at=(
                spot.left[0] if spot.left[2] <= right else 1.12 * right,
                spot.distance if spot.distance <= top else BEYOND * top,
            ),
        )
        for spot in spots
    ]


def _draw(spots: Sequence[Spot], name: str) -> Markup:
    listed = "; ".join(
        f"{s.name} {format_number(s.left[0], 2)} % at {format_number(s.distance, 2)}" for s in spots
    )
    spots = place_spots(spots)
    longest = max(len(line) for spot in spots for line in _wrap(spot.words))
    size = (PLOT + LETTER * longest, max(2.6, 0.17 * sum(len(_wrap(spot.words)) for spot in spots)))
    with draw_chart(name, f"Forget rate against distance: {listed}", size) as chart:
        axes, several = chart.axes, len({spot.run for spot in spots}) > 1
        for spot in spots:
            colour = COLOURS[spot.run % len(COLOURS)] if several or not spot.is_reference else INK
            if spot.at[0] == spot.left[0]:
                axes.plot(spot.left[1:], [spot.at[1]] * 2, color=colour, linewidth=0.9, alpha=0.55)
            face = "none" if spot.is_reference else colour
            axes.plot(*spot.at, spot.marker, ms=4.4, color=colour, mfc=face, clip_on=False)
        distances = [spot.at[1] for spot in spots]
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if max(distances) < 8 * min(distances) else "")
        axes.set_xlim(left=0)
        axes.grid()
        axes.set_xlabel("% judged forgotten")
        axes.set_ylabel("Fréchet distance, log")
        _write_names(axes, spots)
    return chart.svg


def _write_names(axes: Axes, spots: Sequence[Spot]) -> None:
    """Write the names in a column beside the plot, ordered by height, with a line to each point."""
    axes.figure.canvas.draw()
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(((*to_axes.transform(spot.at), spot) for spot in spots), key=lambda each: each[1])
    heights = spread([height for _, height, _ in placed], GAP * max(len(_wrap(s.words)) for s in spots))
    for (across, height, spot), at in zip(placed, heights, strict=True):
        x, y = [across, 1.015, 1.035], [height, at, at]
        axes.plot(x, y, transform=axes.transAxes, color=LINE, lw=0.6, clip_on=False, zorder=0.5)
        colour = MUTED if spot.is_reference else INK
        words = "\n".join(_wrap(spot.words))
        axes.text(1.045, at, words, transform=axes.transAxes, va="center", color=colour, fontsize=7.5)


def _wrap(words: str) -> list[str]:
    return textwrap.wrap(words, LETTERS)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights, in the same order, that are at least a gap apart and near the given ones.

    Heights that are too close form a group, whose mean is kept.

    Args:
        heights: ascending.
        gap: > 0.
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group, gap) + k * gap for group in groups for k in range(len(group))]


def _bottom(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)
