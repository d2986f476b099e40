"""The marks of methods: a colour and a dash for each, discs, and numbers inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unflow.evidence.reproduce.figures.style import COLOURS, DPI, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HUES = COLOURS[:-1]
"""Of methods, in order; then again with broken lines. Ink is for references."""
DISC, SMALL_DISC, DOT = 12, 8, 5
"""Radius in pixels of a default with its number inside, of one without, and of other points."""

Point = tuple[float, float]


def hue(i: int) -> str:
    """Return the colour of method i."""
    return HUES[i % len(HUES)]


def dashes(i: int) -> Any:
    """Return how its line is broken."""
    return "-" if i < len(HUES) else (0, (3, 1.5))


def _letters(i: int) -> str:
    """Return the colour of a number that is legible on a method's own."""
    red, green, blue = (int(hue(i)[at : at + 2], 16) for at in (1, 3, 5))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else INK


def put_disc(axes: Axes, i: int, point: Point, is_filled: bool, radius: int, layer: int = 5) -> None:
    """Draw a disc in the colour of method i, filled or hollow."""
    face = hue(i) if is_filled else "white"
    axes.scatter([point[0]], [point[1]], s=area(radius), c=face, ec=hue(i), lw=1.3, zorder=layer)


def area(radius: int) -> float:
    """Return the size, as matplotlib counts it, of a disc of that many pixels."""
    return (2 * radius * 72 / DPI) ** 2


def put_number(axes: Axes, i: int, point: Point, is_filled: bool) -> None:
    """Write the number of method i, from 1, into its disc."""
    colour = _letters(i) if is_filled else INK
    axes.annotate(
        str(i + 1),
        point,
        (0, -0.4),
        textcoords="offset points",
        ha="center",
        va="center_baseline",
        size=7.5,
        weight="bold",
        color=colour,
        zorder=6,
    )
