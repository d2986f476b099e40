"""Labels beside points that avoid marks, other labels and the borders of the axes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.style import DPI, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WAYS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""From a point to its label: right, left, above, below, then the corners."""


def label_points(
    axes: Axes,
    labels: Sequence[tuple[str, tuple[float, float]]],
    obstacles: NDArray[Any],
    *,
    size: float = 8.5,
) -> None:
    """Write each label at the place with least overlap, nearest first; a line leads to a distant label.

    The limits of the axes and the layout of the figure must be final.

    Args:
        axes: to write on.
        labels: text and point of each label, in data coordinates.
        obstacles: boxes [n, 4] in pixels to avoid: left, bottom, right, top.
        size: of the font, in points.
    """
    inside, placed = np.array(axes.bbox.extents), np.zeros((0, 4))
    for words, point in labels:
        at = axes.transData.transform(point)
        boxes = _list_candidates(at, *_measure_extent(words, size))
        costs = [
            _measure_overlap(box, obstacles)
            + 50 * _measure_excess(box, inside)
            + 20 * _measure_overlap(_make_leader(at, box), placed)
            + 3 * i
            for i, box in enumerate(boxes)
        ]
        box = boxes[int(np.argmin(costs))]
        placed = np.concatenate([placed, box[None] + (-2, -1, 2, 1)])
        obstacles = np.concatenate([obstacles, placed[-1:], _make_leader(at, box)])
        _write_label(axes, words, at, box, size)


def make_mark_boxes(axes: Axes, points: NDArray[Any], radius: float) -> NDArray[Any]:
    """Return boxes [n, 4] in pixels around marks at points [n, 2] in data coordinates."""
    at = axes.transData.transform(points.reshape(-1, 2))
    return np.concatenate([at - radius, at + radius], 1)


def make_line_boxes(axes: Axes, points: NDArray[Any]) -> NDArray[Any]:
    """Return boxes [n, 4] of a few pixels along the line that joins points [n, 2]."""
    at = axes.transData.transform(points)
    pieces = [np.linspace(a, b, 2 + int(np.hypot(*(b - a)) // 8)) for a, b in pairwise(at)]
    way = np.concatenate(pieces) if pieces else at
    return np.concatenate([way - 2, way + 2], 1)


def _measure_extent(words: str, size: float) -> tuple[float, float]:
    """Return width and height in pixels of a rendered text."""
    from matplotlib.textpath import TextPath

    lines = [TextPath((0, 0), line, size=size).get_extents().width for line in words.split("\n")]
    return max(lines) * DPI / 72, 1.25 * size * len(lines) * DPI / 72


def _list_candidates(point: NDArray[Any], width: float, height: float) -> NDArray[Any]:
    """Return boxes [n, 4] around a point, the nearest first."""
    (x, y), centres = point, []
    for away in (13, 24, 40, 60):
        for dx, dy in WAYS:
            step = 0.75 * away if dx and dy else away
            centres.append((x + dx * (step + width / 2), y + dy * (step + height / 2)))
    half = np.array((width / 2, height / 2))
    return np.hstack([np.array(centres) - half, np.array(centres) + half])


def _measure_overlap(boxes: NDArray[Any], obstacles: NDArray[Any]) -> float:
    """Return the area in pixels that boxes [..., 4] share with obstacles [n, 4]."""
    near = boxes.reshape(-1, 1, 4)
    sides = np.minimum(near[..., 2:], obstacles[:, 2:]) - np.maximum(near[..., :2], obstacles[:, :2])
    return float(sides.clip(0).prod(-1).sum())


def _measure_excess(box: NDArray[Any], inside: NDArray[Any]) -> float:
    """Return by how many pixels a box exceeds another one."""
    return float(np.maximum(inside[:2] - box[:2], 0).sum() + np.maximum(box[2:] - inside[2:], 0).sum())


def _make_leader(point: NDArray[Any], box: NDArray[Any]) -> NDArray[Any]:
    """Return small boxes [n, 4] on the way from a point to its label."""
    way = np.linspace(point, np.clip(point, box[:2], box[2:]), 6)
    return np.hstack([way - 2, way + 2])


def _write_label(axes: Axes, words: str, point: NDArray[Any], box: NDArray[Any], size: float) -> None:
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import IdentityTransform

    pixels = IdentityTransform()
    nearest = np.clip(point, box[:2], box[2:])
    if np.hypot(*(nearest - point)) > 20:
        axes.plot(*zip(point, nearest, strict=True), color=MUTED, lw=0.7, transform=pixels, zorder=4)
    x, y = (box[:2] + box[2:]) / 2
    text = axes.text(x, y, words, transform=pixels, size=size, zorder=9)
    text.set(ha="center", va="center", path_effects=[withStroke(linewidth=2.5, foreground="white")])
