"""Forgetting against quality, one point a row: who is on the curve, and who behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unflow.evidence.report.read import Row
from unflow.evidence.report.summary import interval
from unflow.evidence.report.svg import FORGET, FOURTH, INK, KEEP, LINE, MUTED, THIRD, chart
from unflow.evidence.report.words import METRICS, number

QUALITIES = ("fid_retain", "fid_target")
"""What the height of a point may be: the first that two rows have."""
COLOURS = (KEEP, FORGET, THIRD, FOURTH)
GAP = 0.058
"""Between the names beside the plot, as a share of its height."""


@dataclass(frozen=True)
class Spot:
    """A row's place.

    Attributes:
        name: beside it.
        left: forgotten samples left, in percent, and the ends of its 95 % interval.
        distance: Fréchet distance.
        is_reference: whether the row is there to be compared with.
        run: of several on one page; it has its own colour.
    """

    name: str
    left: tuple[float, float, float]
    distance: float
    is_reference: bool
    run: int


def trade_off(rows: Sequence[tuple[str, Row, int]], name: str) -> tuple[str, str] | None:
    """Return caption and picture of rows; None where fewer than two have a distance.

    Args:
        rows: name, row, and which of several runs it is from.
        name: unique on the page.
    """
    for quality in QUALITIES:
        found = [spot for label, row, run in rows if (spot := _spot(label, row, run, quality)) is not None]
        if len(found) > 1:
            return _caption(quality), _drawn(found, quality, name)
    return None


def _caption(quality: str) -> str:
    heading = next(m.heading for m in METRICS if m.key == quality)
    return f"Forget rate against {heading}: low and left is good; left of the target is further than asked"


def _spot(name: str, row: Row, run: int, quality: str) -> Spot | None:
    rate, distance = row.number("forget_rate"), row.number(quality)
    if rate is None or distance is None or not distance > 0:
        return None
    low, high = interval(rate, row.number("n"), 1.96)
    return Spot(name, (100 * rate, 100 * low, 100 * high), distance, row.is_reference, run)


def _drawn(spots: Sequence[Spot], quality: str, name: str) -> str:
    listed = "; ".join(f"{s.name} {number(s.left[0], 2)} % at {number(s.distance, 2)}" for s in spots)
    with chart(name, f"Forget rate against distance: {listed}", (5.6, max(2.6, 0.17 * len(spots)))) as drawn:
        axes, several = drawn.axes, len({spot.run for spot in spots}) > 1
        for spot in spots:
            colour = COLOURS[spot.run % len(COLOURS)] if several or not spot.is_reference else INK
            left, low, high = spot.left
            axes.plot([low, high], [spot.distance] * 2, color=colour, linewidth=0.9, alpha=0.55)
            face = "none" if spot.is_reference else colour
            axes.plot(
                [left],
                [spot.distance],
                "o",
                markersize=4.4,
                color=colour,
                markerfacecolor=face,
                clip_on=False,
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if _is_narrow(spots) else "")
        axes.set_xlim(left=0)
        axes.grid()
        axes.set_xlabel("% judged forgotten")
        axes.set_ylabel("Fréchet distance, log")
        _names(axes, spots)
    return drawn.svg


def _is_narrow(spots: Sequence[Spot]) -> bool:
    distances = [spot.distance for spot in spots]
    return max(distances) < 8 * min(distances)


def _names(axes: Any, spots: Sequence[Spot]) -> None:
    """Write the names in a column beside the plot, in the order of the heights, a line to each point."""
    axes.figure.canvas.draw()
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(
        ((*to_axes.transform((spot.left[0], spot.distance)), spot) for spot in spots),
        key=lambda each: each[1],
    )
    heights = spread([height for _, height, _ in placed], GAP)
    for (across, height, spot), at in zip(placed, heights, strict=True):
        axes.plot(
            [across, 1.015, 1.035],
            [height, at, at],
            transform=axes.transAxes,
            color=LINE,
            linewidth=0.6,
            clip_on=False,
            zorder=0.5,
        )
        colour = MUTED if spot.is_reference else INK
        axes.text(1.045, at, spot.name, transform=axes.transAxes, va="center", color=colour, fontsize=7.5)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights in the same order, no two nearer than a gap, as near to the given ones as a push allows.

    Args:
        heights: ascending.
        gap: > 0.
    """
    groups: list[list[float]] = []  # of heights that stand a gap apart, around the mean of what they are for
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], gap) < _top(groups[-2], gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group, gap) + k * gap for group in groups for k in range(len(group))]


def _bottom(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[float], gap: float) -> float:
    return _bottom(group, gap) + gap * (len(group) - 1)
