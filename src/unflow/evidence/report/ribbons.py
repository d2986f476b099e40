"""Class transitions as ribbons: for the same latents, the class before (left) and after (right)."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from markupsafe import Markup

Array = NDArray[np.float64]

WIDTH, SIDE, BAR = 320.0, 62.0, 7.0
"""Widths: of the picture, of the class names on each side, and of a bar."""
BARS, GAP, LINE = 200.0, 5.0, 9.0
"""Heights: of all bars of one side together, of the gap between two bars, and of a class name."""
LETTERS, MOST_LINES = 11, 3
"""Letters of a line of a class name, and most lines."""
KINDS = ("stays", "moves", "forgotten")
"""Kinds of ribbons in drawing order: later kinds cover earlier ones."""


def draw_ribbons(counts: Array, names: Sequence[str], forget: Sequence[int], description: str) -> Markup:
    """Return an SVG element with a bar per class on both sides and a ribbon per nonzero count.

    Args:
        counts: number of latents by class before (row) and after (column), [classes, classes]; sum > 0.
        names: the class names, [classes].
        forget: indices of the forgotten classes, which are highlighted.
        description: text alternative for screen readers.
    """
    from markupsafe import Markup

    sizes = counts * (BARS / counts.sum())
    lines = [textwrap.wrap(name, LETTERS, max_lines=MOST_LINES, placeholder="…") or [""] for name in names]
    needed = LINE * np.array([len(each) for each in lines], dtype=np.float64)
    before, after = _stack(np.maximum(sizes.sum(1), needed)), _stack(np.maximum(sizes.sum(0), needed))
    starts = before[:, None] + np.cumsum(sizes, 1) - sizes
    ends = after[None, :] + np.cumsum(sizes, 0) - sizes
    paths: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for i, j in zip(*np.nonzero(counts), strict=True):
        kind = "forgotten" if {i, j} & set(forget) else "stays" if i == j else "moves"
        title = html.escape(f"{names[i]} to {names[j]}: {counts[i, j]:.0f}")
        shape = _ribbon_path(float(starts[i, j]), float(ends[i, j]), float(sizes[i, j]))
        paths[kind].append(f'<path class="{kind}" d="{shape}"><title>{title}</title></path>')
    drawn = [path for kind in KINDS for path in paths[kind]]
    drawn += _draw_bars(before, sizes.sum(1), lines, forget, SIDE, SIDE - 4, "end")
    drawn += _draw_bars(after, sizes.sum(0), lines, forget, WIDTH - SIDE - BAR, WIDTH - SIDE + 4, "start")
    height = max(
        top[-1] + max(total[-1], needed[-1]) for top, total in ((before, sizes.sum(1)), (after, sizes.sum(0)))
    )
    return Markup(
        f'<svg class="ribbons" viewBox="0 0 {WIDTH:.0f} {height + 2:.0f}" role="img" '
        f'aria-label="{html.escape(description)}">{"".join(drawn)}</svg>'
    )


def _stack(heights: Array) -> Array:
    """Return the top of each bar of one side; the height of a bar is at least that of its name."""
    return np.cumsum(heights + GAP) - heights - GAP


def _ribbon_path(start: float, end: float, thick: float) -> str:
    left, middle, right = SIDE + BAR, WIDTH / 2, WIDTH - SIDE - BAR
    return (
        f"M{left:.0f} {start:.1f}C{middle:.0f} {start:.1f} {middle:.0f} {end:.1f} {right:.0f} {end:.1f}"
        f"v{thick:.2f}C{middle:.0f} {end + thick:.1f} {middle:.0f} {start + thick:.1f} "
        f"{left:.0f} {start + thick:.1f}z"
    )


def _draw_bars(
    tops: Array,
    totals: Array,
    names: Sequence[Sequence[str]],
    forget: Sequence[int],
    x: float,
    x_name: float,
    anchor: str,
) -> list[str]:
    drawn = []
    for k, (top, total) in enumerate(zip(tops, totals, strict=True)):
        kind, high = "forgotten" if k in forget else "kept", max(total, 0.6)
        middle = top + max(total, LINE * len(names[k])) / 2 - LINE * (len(names[k]) - 1) / 2
        rows = "".join(
            f'<tspan x="{x_name:.0f}" y="{middle + LINE * i:.1f}">{html.escape(line)}</tspan>'
            for i, line in enumerate(names[k])
        )
        drawn.append(
            f'<rect class="{kind}" x="{x:.0f}" y="{top:.1f}" width="{BAR:.0f}" height="{high:.1f}"/>'
            f'<text class="{kind}" text-anchor="{anchor}">{rows}</text>'
        )
    return drawn
