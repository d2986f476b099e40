"""Where each class went: one matrix of classes per method, in percent of its rows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.metrics.forgetting import check_request
from unflow.evidence.reproduce.figures.checks import as_array, require_some
from unflow.evidence.reproduce.figures.drawing import Drawing, new_drawing, put_title, write_drawings
from unflow.evidence.reproduce.figures.style import DPI, FORGET, INK, KEEP, MUTED, WIDTH
from unflow.ground.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 30
"""Largest number of classes whose numbers are legible in one row."""
LETTER = 10
"""Pixels per letter of a class's name."""
CELL, SPACE, TITLE = 48, 40, 76
"""Pixels: largest cell, space between panels, and space above a panel."""
APART = 0.6
"""Distance in cells between a matrix and the target's row below it."""


@dataclass(frozen=True)
class Layout:
    """Positions of panels of square cells, in pixels.

    Attributes:
        ncols: panels in a row.
        side: side of a cell.
        left: space for the classes' names at the left.
        below: space for the classes' names at the bottom.
        cells: columns and rows of a panel, in cells.
    """

    ncols: int
    side: int
    left: int
    below: int
    cells: tuple[float, float]

    def corner(self, i: int) -> tuple[float, float]:
        """Return the upper left corner of panel i."""
        width, height = (self.side * n for n in self.cells)
        row, col = divmod(i, self.ncols)
        return self.left + col * (width + SPACE), TITLE + row * (height + TITLE + 10)

    def size(self, n: int) -> tuple[int, int]:
        """Return width and height of a figure of n panels."""
        x = self.corner(min(n, self.ncols) - 1)[0]
        y = self.corner(n - 1)[1]
        width = max(x + self.side * self.cells[0] + 12, 640)
        return round(width), round(y + self.side * self.cells[1] + self.below + 64)


def draw_redistribution(
    path: Path,
    matrices: Mapping[str, NDArray[Any]],
    class_names: Sequence[str],
    forget: Sequence[int],
    *,
    target_shares: Sequence[float] | None = None,
) -> Path:
    """Draw where the latents of each class went, one matrix per method, in percent of each row.

    Row: class of G0(z); column: class of G(z) for the same z, as in ``metrics.transition_matrix``. Cells of
    1 % or more show their numbers. Rows and columns of forgotten classes are framed. Cells of a row of
    zeros show –.

    Args:
        path: the PNG file.
        matrices: counts or shares, shape [k, k], of each method.
        class_names: names of the k classes, at most 30.
        forget: class indices.
        target_shares: counts or shares of the k classes under the exact target, drawn as a row below each
            matrix: the classes of forgotten latents that are sampled again.

    Raises:
        InputError: for arrays of other shapes, NaN or numbers below 0, an impossible request, or too many
            classes.
    """
    require_some(matrices, "matrices")
    k = len(class_names)
    if not 2 <= k <= MOST:
        raise InputError(f"got {k} class names; expected 2 to {MOST}")
    check_request(forget, k)
    counts = {name: _check_counts(matrix, (k, k), f"matrix of {name!r}") for name, matrix in matrices.items()}
    target = None if target_shares is None else _check_counts(target_shares, (k,), "target shares")
    layout = _make_layout(class_names, len(counts), target is not None)
    width, height = layout.size(len(counts))
    with new_drawing(width, height, layout="none") as drawing:
        for i, (name, matrix) in enumerate(counts.items()):
            axes = _add_panel(drawing, layout, i)
            _draw_matrix(axes, matrix, target, layout.side)
            _draw_frames(axes, forget, k, target is not None)
            is_outer = (i + layout.ncols >= len(counts), i % layout.ncols == 0)
            _name_classes(axes, class_names, is_outer, layout.side, target is not None)
            put_title(
                axes, textwrap.shorten(name, int(layout.side * k / LETTER)), _describe_moves(matrix, forget)
            )
        _draw_key(drawing, layout, target is not None)
    return write_drawings(path, drawing)


def _check_counts(values: Any, shape: tuple[int, ...], what: str) -> NDArray[Any]:
    found = as_array(values, shape, what)
    if not np.isfinite(found).all() or (found < 0).any():
        raise InputError(f"got {what} with NaN, infinity or a number below 0; expected counts or shares")
    return found


def _to_percent(counts: NDArray[Any]) -> NDArray[Any]:
    """Return rows [..., k] in percent of their sums; NaN where a sum is 0."""
    total = counts.sum(-1, keepdims=True)
    percent: NDArray[Any] = 100 * np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    return percent


def _describe_moves(counts: NDArray[Any], forget: Sequence[int]) -> str:
    """Return the forgotten share that is left, and the share of the others that stays in its class."""
    gone = np.isin(np.arange(len(counts)), forget)
    left = _format_ratio(counts[gone][:, gone].sum(), counts[gone].sum())
    stayed = _format_ratio(np.diag(counts)[~gone].sum(), counts[~gone].sum())
    return f"forgotten {left} left, others {stayed} stay"


def _format_ratio(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 else "–"


# Panels


def _make_layout(class_names: Sequence[str], n: int, has_target: bool) -> Layout:
    k = len(class_names)
    longest = max(len(name) for name in class_names)
    most = 3 if k <= 12 else 2 if k <= 16 else 1
    ncols = min(most, -(-n // -(-n // most)))  # four panels form a square
    left = 40 + LETTER * min(max(longest, 6 * has_target), 14)
    side = min(CELL, int((WIDTH - 12 - left - SPACE * (ncols - 1)) / (ncols * k)))
    is_upright = LETTER * longest > side
    below = 34 + (LETTER * min(longest, 14) if is_upright else 14)
    return Layout(ncols, side, left, below, (k, k + (1 + APART) * has_target))


def _add_panel(drawing: Drawing, layout: Layout, i: int) -> Axes:
    """Return axes in units of cells, from the upper left corner."""
    x, y = layout.corner(i)
    columns, rows = layout.cells
    width, height = columns * layout.side / drawing.width, rows * layout.side / drawing.height
    axes = drawing.figure.add_axes((x / drawing.width, 1 - y / drawing.height - height, width, height))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.spines[:].set_visible(False)
    return axes


def _draw_matrix(axes: Axes, counts: NDArray[Any], target: NDArray[Any] | None, side: int) -> None:
    k = len(counts)
    _draw_cells(axes, _to_percent(counts), 0, side)
    if target is not None:
        _draw_cells(axes, _to_percent(target)[None], k + APART, side)


def _draw_cells(axes: Axes, percent: NDArray[Any], top: float, side: int) -> None:
    """Draw rows of cells with their numbers, downwards from ``top``."""
    n, k = percent.shape
    x, y, z = np.arange(k + 1), top + np.arange(n + 1), np.ma.masked_invalid(percent)
    axes.pcolormesh(x, y, z, cmap=_make_blues(), vmin=0, vmax=100, edgecolors="white", linewidth=1)
    size = min(8.5, 0.41 * side * 72 / DPI)
    for (row, col), value in np.ndenumerate(percent):
        words = "–" if np.isnan(value) else f"{value:.0f}" if value >= 1 else ""
        colour = "white" if value > 55 else INK
        axes.text(
            col + 0.5, top + row + 0.5, words, ha="center", va="center_baseline", size=size, color=colour
        )


def _make_blues() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("blues", ["#f4f4f2", "#a9c8e0", KEEP, "#0a4a7a"])
    return colours.with_extremes(bad="white")


def _draw_frames(axes: Axes, forget: Sequence[int], k: int, has_target: bool) -> None:
    """Frame each forgotten row and column, and its cell of the target's row."""
    from matplotlib.patches import Rectangle

    for c in forget:
        boxes = [((0, c), k, 1), ((c, 0), 1, k)] + [((c, k + APART), 1, 1)] * has_target
        for corner, width, height in boxes:
            axes.add_patch(
                Rectangle(corner, width, height, fill=False, ec=FORGET, lw=1.5, clip_on=False, zorder=3)
            )


def _name_classes(
    axes: Axes, class_names: Sequence[str], is_outer: tuple[bool, bool], side: int, has_target: bool
) -> None:
    """Write the classes' names below and at the left of the outer panels."""
    k = len(class_names)
    names = [textwrap.shorten(name, 14, placeholder="…") for name in class_names]
    is_upright = LETTER * max(len(name) for name in names) > side
    axes.set_xticks(np.arange(k) + 0.5, names if is_outer[0] else [""] * k, rotation=90 * is_upright)
    rows = [*(np.arange(k) + 0.5), *([k + APART + 0.5] * has_target)]
    labels = [*names, *(["target"] * has_target)]
    axes.set_yticks(rows, labels if is_outer[1] else [""] * len(rows))
    if is_outer[0]:
        axes.set_xlabel("class of G(z), same z")
    if is_outer[1]:
        axes.set_ylabel("class of G0(z)")


def _draw_key(drawing: Drawing, layout: Layout, has_target: bool) -> None:
    from matplotlib.patches import Rectangle

    axes = drawing.figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.set_axis_off()
    x, y = layout.left, drawing.height - 22
    axes.add_patch(Rectangle((x, y - 8), 30, 16, fill=False, ec=FORGET, lw=1.5))
    words = "forgotten        numbers: percent of their row, from 1 % on"
    if has_target:
        words += "        target: class shares of the exact target"
    drawing.text(x + 42, y, words, va="center_baseline", color=MUTED, size=8.5)
