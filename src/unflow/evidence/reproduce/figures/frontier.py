"""Forgetting against its cost: one curve per method, and the Pareto frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.curves import (
    Curve,
    Track,
    as_point,
    as_tracks,
    find_frontier,
    is_measured,
)
from unflow.evidence.reproduce.figures.drawing import Drawing, new_drawing, put_title, write_drawings
from unflow.evidence.reproduce.figures.labels import label_points, make_line_boxes, make_mark_boxes
from unflow.evidence.reproduce.figures.marks import (
    DISC,
    DOT,
    SMALL_DISC,
    Point,
    area,
    choose_line,
    put_disc,
    put_number,
)
from unflow.evidence.reproduce.figures.style import INK, LINE, MUTED, WIDTH
from unflow.evidence.reproduce.figures.windows import Window, choose_windows
from unflow.ground.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = ("D", "s", "^", "P", "v", "X", "p", "h")
"""Marks of references, in order."""
UNREACHED = "#f1f0ec"
"""Colour of the region that no method reaches."""
HEIGHT, TOP, SIDE, STEP = 620, 62, 290, 26
"""Pixels: height of the figure, margin above the panels, width of the legend, height of its lines."""


def draw_trade_off(
    path: Path,
    curves: Mapping[str, Curve],
    references: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    ylabel: str,
) -> Path:
    """Draw percent of unlearning against its cost: one curve per method, and the Pareto frontier.

    A point is on the frontier if no point of a method is as good in both metrics and better in one;
    references do not count. Points on the frontier are filled, the others hollow. The mark of a method's
    default is large and holds the method's number in the legend. x is logarithmic if it spans a factor of
    10. If at least a third of the points, but not all, lie at 80 % or above, a second panel enlarges them.

    Args:
        path: the PNG file.
        curves: name and curve of each method, at most 14.
        references: name, x and y of single points (the original, the exact target), at most 8.
        xlabel: label of x.
        ylabel: label of y.

    Raises:
        InputError: for arrays of other shapes, infinite numbers, more than 100 %, a default that is
            not among its strengths, a method or reference that was not measured, or too many.
    """
    tracks = as_tracks(curves)
    if len(references) > len(MARKS):
        raise InputError(f"got {len(references)} references; expected at most {len(MARKS)}")
    points = {name: as_point(name, point) for name, point in references.items()}
    cloud = np.concatenate([track.points for track in tracks])
    front = cloud[find_frontier(cloud)]
    shown = np.concatenate([cloud[is_measured(cloud)], *(point[None] for point in points.values())])
    windows = choose_windows(shown)
    with new_drawing(WIDTH, HEIGHT, layout="none") as drawing:
        for axes, window in zip(_add_panels(drawing, len(windows)), windows, strict=True):
            closer = windows[1] if window is not windows[-1] else None
            _draw_panel(axes, tracks, points, front, window, closer)
            axes.set_xlabel(xlabel)
        drawing.figure.axes[0].set_ylabel(ylabel)
        _draw_legend(drawing, tracks, front)
    return write_drawings(path, drawing)


def _add_panels(drawing: Drawing, n: int) -> list[Axes]:
    """Return axes at the left of the legend; the closer one of two is the larger."""
    left, gap, bottom = 66, 56, 54
    room = drawing.width - SIDE - left - gap * (n - 1)
    widths = (room,) if n == 1 else (0.42 * room, 0.58 * room)
    starts = (left, left + widths[0] + gap)
    height = (drawing.height - TOP - bottom) / drawing.height
    return [
        drawing.figure.add_axes((x / drawing.width, bottom / drawing.height, width / drawing.width, height))
        for x, width in zip(starts, widths, strict=False)
    ]


def _draw_panel(
    axes: Axes,
    tracks: Sequence[Track],
    references: Mapping[str, NDArray[Any]],
    front: NDArray[Any],
    window: Window,
    closer: Window | None,
) -> None:
    """Draw curves and references; a number is inside its disc if there is room, else beside it.

    Points that the closer panel shows have their numbers and names only there.
    """
    window.apply(axes)
    _draw_ground(axes, window, front)
    n = len(tracks)
    names = [*(str(i + 1) for i in range(n)), *references]
    at = np.stack([*(track.points[track.default] for track in tracks), *references.values()])
    shown = window.shows(at) & ~(closer.shows(at) if closer else np.zeros(len(at), bool))
    crowded = _is_crowded(axes, at)
    for i, track in enumerate(tracks):
        _draw_curve(axes, track, i, front, (SMALL_DISC if crowded[i] else DISC) if shown[i] else DOT)
        if shown[i] and not crowded[i]:
            put_number(axes, i, _as_pair(at[i]), bool(_is_among(at[i], front)))
    for (x, y), mark in zip(references.values(), MARKS, strict=False):
        axes.scatter([x], [y], s=52, marker=mark, c=INK, ec="white", lw=0.8, zorder=7)
    beside = [k for k in np.flatnonzero(shown) if k >= n or crowded[k]]
    label_points(
        axes, [(names[k], _as_pair(at[k])) for k in beside], _find_obstacles(axes, tracks, at, window)
    )
    if closer is not None:
        _draw_frame(axes, closer)
    put_title(
        axes, window.title, "frame: the panel at the right" if closer else "better is up and to the left"
    )


def _find_obstacles(axes: Axes, tracks: Sequence[Track], marks: NDArray[Any], window: Window) -> NDArray[Any]:
    """Return the boxes in pixels that curves and marks cover."""
    small = np.concatenate([track.points for track in tracks])
    boxes = [make_line_boxes(axes, track.points[is_measured(track.points)]) for track in tracks]
    boxes.append(make_mark_boxes(axes, small[window.shows(small)], DOT + 1))
    boxes.append(make_mark_boxes(axes, marks[window.shows(marks)], SMALL_DISC + 1))
    return np.concatenate(boxes)


def _draw_ground(axes: Axes, window: Window, front: NDArray[Any]) -> None:
    """Shade the region above and left of every method, and draw faint horizontal lines."""
    stairs = front[np.lexsort((front[:, 1], front[:, 0]))]
    x = [min(window.x[0], stairs[0, 0]), *stairs[:, 0], max(window.x[1], stairs[-1, 0])]
    y = [window.y[0], *stairs[:, 1], stairs[-1, 1]]
    axes.fill_between(
        x, np.maximum(y, window.y[0]), window.y[1], step="post", color=UNREACHED, lw=0, zorder=0
    )
    axes.grid(axis="y")
    if window.y[0] < -10:
        axes.axhline(0, color=LINE, lw=1.2, zorder=0.6)


def _draw_frame(axes: Axes, closer: Window) -> None:
    from matplotlib.patches import Rectangle

    corner, size = (closer.x[0], closer.y[0]), (closer.x[1] - closer.x[0], closer.y[1] - closer.y[0])
    axes.add_patch(Rectangle(corner, *size, fill=False, ec=MUTED, lw=0.9, ls=(0, (3, 2)), zorder=6))


# Methods


def _draw_curve(axes: Axes, track: Track, i: int, front: NDArray[Any], radius: int) -> None:
    """Join a method's points; draw its default as a disc of ``radius`` pixels."""
    is_front = _is_among(track.points, front)
    axes.plot(*track.points.T, **choose_line(i, bool(is_front.any())), zorder=2)
    for k, ((x, y), is_filled) in enumerate(zip(track.points, is_front, strict=True)):
        is_default = k == track.default
        put_disc(axes, i, (x, y), is_filled, radius if is_default else DOT, 5 if is_default else 3)


def _is_crowded(axes: Axes, points: NDArray[Any]) -> NDArray[Any]:
    """Return whether each disc would hide the number of another one."""
    at = axes.transData.transform(points)
    apart = np.hypot(*(at[:, None] - at[None]).T)
    np.fill_diagonal(apart, np.inf)
    crowded: NDArray[Any] = (apart < 1.6 * DISC).any(1)
    return crowded


def _is_among(points: NDArray[Any], some: NDArray[Any]) -> NDArray[Any]:
    """Return whether each of the points [..., 2] is a row of ``some``."""
    among: NDArray[Any] = (points[..., None, :] == some).all(-1).any(-1)
    return among


def _as_pair(point: NDArray[Any]) -> Point:
    return float(point[0]), float(point[1])


# The legend


def _draw_legend(drawing: Drawing, tracks: Sequence[Track], front: NDArray[Any]) -> None:
    """List the methods on the frontier, the other methods, and the meaning of the marks."""
    axes = drawing.figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.set_axis_off()
    left, y = drawing.width - SIDE + 24, 26
    is_ahead = [bool(_is_among(track.points, front).any()) for track in tracks]
    for title, group in (("on the frontier", True), ("behind it", False)):
        rows = [i for i in range(len(tracks)) if is_ahead[i] is group]
        if rows:
            drawing.text(left, y, title, size=9.5, va="center_baseline")
            y = _draw_entries(axes, drawing, tracks, rows, group, left, y) + 40
    _draw_key(axes, drawing, left, y)


def _draw_entries(
    axes: Axes, drawing: Drawing, tracks: Sequence[Track], rows: list[int], is_filled: bool, left: int, y: int
) -> int:
    """Write one line per method, and return the height of the last one."""
    for i in rows:
        y += STEP
        axes.plot([left, left + 46], [y, y], **choose_line(i, is_filled))
        put_disc(axes, i, (left + 23, y), is_filled, DISC)
        put_number(axes, i, (left + 23, y), is_filled)
        drawing.text(left + 60, y, tracks[i].name, va="center_baseline")
        if tracks[i].gaps:
            y += 20
            words = f"{tracks[i].gaps} of {len(tracks[i].points)} not measured"
            drawing.text(left + 60, y, words, va="center_baseline", color=MUTED, size=8.5)
    return y


def _draw_key(axes: Axes, drawing: Drawing, left: int, y: int) -> None:
    """Explain filled marks, large marks and the shaded region."""
    axes.scatter([left + 23], [y], s=area(DOT), c=MUTED, ec=MUTED, lw=1.3)
    axes.scatter([left + 23], [y + STEP], s=area(DISC), c="white", ec=MUTED, lw=1.3)
    axes.fill_between([left, left + 46], y + 2 * STEP - 9, y + 2 * STEP + 9, color=UNREACHED, lw=0)
    for k, words in enumerate(("point on the frontier", "default strength", "reached by no method")):
        drawing.text(left + 60, y + k * STEP, words, va="center_baseline", color=MUTED, size=8.5)
