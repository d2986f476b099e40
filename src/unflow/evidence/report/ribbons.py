"""Where mass went, as ribbons from the class before (left) to the class after (right) of the same latents."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDTH, SIDE, BAR = 320.0, 62.0, 7.0
"""Of the picture, of the names at its sides, of the bars beside them."""
BARS, GAP, LINE = 200.0, 5.0, 9.0
"""Heights: of a side's bars together, of the room between two, and of a name."""
KINDS = ("stays", "moves", "forgotten")
"""In the order of drawing: what moves lies over what stays."""


def ribbons(counts: Array, names: Sequence[str], forget: Sequence[int], words: str) -> str:
    """Return an SVG element: bars by class on both sides, and between them a ribbon for every move.

    Args:
        counts: latents by class before (row) and after (column), [classes, classes], of a positive sum.
        names: of the classes.
        forget: forgotten classes, whose ribbons stand out.
        words: what the picture shows, for those who do not see it.
    """
    sizes = counts * (BARS / counts.sum())
    before, after = _tops(sizes.sum(1)), _tops(sizes.sum(0))
    starts = before[:, None] + np.cumsum(sizes, 1) - sizes
    ends = after[None, :] + np.cumsum(sizes, 0) - sizes
    paths: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for i, j in zip(*np.nonzero(counts), strict=True):
        kind = "forgotten" if {i, j} & set(forget) else "stays" if i == j else "moves"
        title = html.escape(f"{names[i]} to {names[j]}: {counts[i, j]:.0f}")
        shape = _ribbon(float(starts[i, j]), float(ends[i, j]), float(sizes[i, j]))
        paths[kind].append(f'<path class="{kind}" d="{shape}"><title>{title}</title></path>')
    drawn = [path for kind in KINDS for path in paths[kind]]
    drawn += _bars(before, sizes.sum(1), names, forget, SIDE, SIDE - 4, "end")
    drawn += _bars(after, sizes.sum(0), names, forget, WIDTH - SIDE - BAR, WIDTH - SIDE + 4, "start")
    height = max(
        top[-1] + max(total[-1], LINE) for top, total in ((before, sizes.sum(1)), (after, sizes.sum(0)))
    )
    return (
        f'<svg class="ribbons" viewBox="0 0 {WIDTH:.0f} {height + 2:.0f}" role="img" '
        f'aria-label="{html.escape(words)}">{"".join(drawn)}</svg>'
    )


def _tops(totals: Array) -> Array:
    """Return where the bars of a side start, one below the other, each with room for its name."""
    room = np.maximum(totals, LINE) + GAP
    return np.cumsum(room) - room


def _ribbon(start: float, end: float, thick: float) -> str:
    left, middle, right = SIDE + BAR, WIDTH / 2, WIDTH - SIDE - BAR
    return (
        f"M{left:.0f} {start:.1f}C{middle:.0f} {start:.1f} {middle:.0f} {end:.1f} {right:.0f} {end:.1f}"
        f"v{thick:.2f}C{middle:.0f} {end + thick:.1f} {middle:.0f} {start + thick:.1f} "
        f"{left:.0f} {start + thick:.1f}z"
    )


def _bars(
    tops: Array,
    totals: Array,
    names: Sequence[str],
    forget: Sequence[int],
    x: float,
    x_name: float,
    anchor: str,
) -> list[str]:
    drawn = []
    for k, (top, total) in enumerate(zip(tops, totals, strict=True)):
        kind, high = "forgotten" if k in forget else "kept", max(total, 0.6)
        name = names[k] if len(names[k]) <= 11 else f"{names[k][:10]}…"
        drawn.append(
            f'<rect class="{kind}" x="{x:.0f}" y="{top:.1f}" width="{BAR:.0f}" height="{high:.1f}"/>'
            f'<text class="{kind}" x="{x_name:.0f}" y="{top + max(total, LINE) / 2:.1f}" '
            f'text-anchor="{anchor}">{html.escape(name)}</text>'
        )
    return drawn
