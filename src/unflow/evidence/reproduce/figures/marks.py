"""Marks of methods: a colour and a line style for each, and numbered discs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unflow.evidence.reproduce.figures.style import COLOURS, DPI, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HUES = COLOURS[:-1]
"""Colours of methods, in order; further methods repeat them with dashed lines. INK is for references."""
DISC, SMALL_DISC, DOT = 12, 8, 5
"""Radius in pixels of a default with its number inside, of a default without, and of other points."""

Point = tuple[float, float]


def choose_colour(i: int) -> str:
    """Return the colour of method i."""
    return HUES[i % len(HUES)]


def choose_line(i: int, is_thick: bool) -> dict[str, Any]:
    """Return matplotlib's options of the line of method i."""
    dashes = "-" if i < len(HUES) else (0, (3, 1.5))
    return {"color": choose_colour(i), "ls": dashes, "lw": 1.8 if is_thick else 1.2}


def _choose_ink(i: int) -> str:
    """Return a text colour that is legible on the colour of method i."""
    red, green, blue = (int(choose_colour(i)[at : at + 2], 16) for at in (1, 3, 5))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else INK


def put_disc(axes: Axes, i: int, point: Point, is_filled: bool, radius: int, layer: int = 5) -> None:
    """Draw a disc in the colour of method i, filled or hollow."""
    face = choose_colour(i) if is_filled else "white"
    axes.scatter([point[0]], [point[1]], s=area(radius), c=face, ec=choose_colour(i), lw=1.3, zorder=layer)


def area(radius: int) -> float:
    """Return matplotlib's size of a disc whose radius is given in pixels."""
    return (2 * radius * 72 / DPI) ** 2


def put_number(axes: Axes, i: int, point: Point, is_filled: bool) -> None:
    """Write the number of method i, from 1, into its disc."""
    colour = _choose_ink(i) if is_filled else INK
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
