"""Two-dimensional points: clouds of samples, and their paths through flows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.checks import as_array, require_some
from unflow.evidence.reproduce.figures.drawing import new_drawing, put_title, write_drawings
from unflow.evidence.reproduce.figures.style import FORGET, INK, KEEP, MUTED, WIDTH
from unflow.ground.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_scatter_panels(
    path: Path,
    panels: Sequence[tuple[str, NDArray[Any]]],
    *,
    ncols: int = 5,
    marks: NDArray[Any] | None = None,
    marks_name: str = "mode",
    forgotten: Sequence[NDArray[Any]] | None = None,
) -> Path:
    """Draw clouds of points side by side, in the same window [-1.1, 1.1]².

    The panel's caption counts the points outside the window; they are not drawn.

    Args:
        path: the PNG file.
        panels: title and points [n, 2] of each panel.
        ncols: panels in a row.
        marks: points [k, 2] to mark with a cross in every panel.
        marks_name: name of a mark in the legend.
        forgotten: for each panel, bool [n]: whether the judge calls each point forgotten.

    Raises:
        InputError: for arrays of other shapes, or no panels.
    """
    require_some(panels, "panels")
    clouds = [as_array(points, (None, 2), f"points of {title!r}") for title, points in panels]
    masks = _make_masks(clouds, forgotten)
    crosses = None if marks is None else as_array(marks, (None, 2), "marks")
    if ncols < 1:
        raise InputError(f"got ncols={ncols}; expected 1 or more")
    ncols = min(ncols, len(panels))
    nrows = -(-len(panels) // ncols)
    side = min(430, WIDTH // ncols)
    with new_drawing(side * ncols, (side + 90) * nrows + 60, "compressed") as drawing:
        grid = drawing.figure.subplots(nrows, ncols, squeeze=False)
        for i, axes in enumerate(grid.flat):
            axes.set_visible(i < len(panels))
            is_outer = (i + ncols >= len(panels), i % ncols == 0)
            _set_square(axes, 1.1, (-1, 0, 1), is_outer)
        for axes, (title, _), points, mask in zip(grid.flat, panels, clouds, masks, strict=False):
            _draw_cloud(axes, points, mask, crosses)
            put_title(
                axes, textwrap.fill(title, side // 11), _describe_cloud(points, mask, forgotten is not None)
            )
        _draw_cloud_legend(drawing.figure, forgotten is not None, marks_name if crosses is not None else "")
    return write_drawings(path, drawing)


def draw_trajectories(
    path: Path,
    learning: NDArray[Any],
    unlearning: NDArray[Any],
    energy: NDArray[Any],
    extent: tuple[float, float, float, float],
    *,
    names: tuple[str, str] = ("noise to data", "original to unlearned"),
) -> Path:
    """Draw the paths of points through two flows, over the energy of the second flow.

    Args:
        path: the PNG file.
        learning: positions [steps + 1, n, 2] on the way from noise to data.
        unlearning: positions [steps + 1, n, 2] on the way from the original to the unlearned model.
        energy: F on a grid [g, g]; row i is at the i-th height from below.
        extent: left, right, bottom and top of the grid; the panels are grey beyond it.
        names: titles of the two panels.

    Raises:
        InputError: for arrays of other shapes, or an energy or extent that is not finite.
    """
    flows = [
        as_array(x, (None, None, 2), name) for x, name in zip((learning, unlearning), names, strict=True)
    ]
    field = as_array(energy, (None, None), "energy")
    if not np.isfinite(field).all():
        raise InputError("got an energy with NaN or infinity on the grid; expected finite values")
    if not (extent[0] < extent[1] and extent[2] < extent[3]):
        raise InputError(f"got the extent {extent}; expected left < right and bottom < top")
    near = max(1.1, _measure_reach(flows[1]))
    with new_drawing(WIDTH, 720, "compressed") as drawing:
        both = drawing.figure.subplots(1, 2)
        for axes, flow, name, reach in zip(
            both, flows, names, (max(near, _measure_reach(flows[0])), near), strict=True
        ):
            image = axes.imshow(
                field, origin="lower", extent=extent, cmap=_make_colours(), interpolation="bilinear", zorder=0
            )
            _set_square(axes, reach, None, (True, True))
            axes.set_facecolor("#f1f0ec")  # white is a low energy; outside the grid the energy is unknown
            _draw_paths(axes, flow)
            put_title(axes, name, f"{flow.shape[1]:,} paths of {len(flow) - 1} steps")
        beside = both[1].inset_axes((1.04, 0, 0.03, 1))
        bar = drawing.figure.colorbar(image, cax=beside, label="energy F(x)")
        bar.outline.set_visible(False)
        handles = both[0].get_legend_handles_labels()
        drawing.figure.legend(*handles, loc="outside lower left", ncols=2, markerscale=1.6)
    return write_drawings(path, drawing)


# Axes


def _set_square(axes: Axes, reach: float, ticks: Sequence[float] | None, is_outer: tuple[bool, bool]) -> None:
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.spines[:].set_visible(True)
    if ticks is not None:
        axes.set(xticks=ticks, yticks=ticks)
    else:
        axes.locator_params(nbins=6)
    axes.tick_params(labelbottom=is_outer[0], labelleft=is_outer[1])


def _make_colours() -> Any:
    """Return the colours of the background, from white to a pale orange."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("soft", ["#ffffff", "#fbe6d8", "#efb58e"])


def _draw_paths(axes: Axes, flow: NDArray[Any]) -> None:
    from matplotlib.collections import LineCollection

    alpha = float(np.clip(60 / flow.shape[1], 0.12, 0.6))
    axes.add_collection(LineCollection(list(flow.swapaxes(0, 1)), colors=MUTED, linewidths=0.7, alpha=alpha))
    size = float(np.clip(3000 / flow.shape[1], 5, 16))
    axes.scatter(flow[0, :, 0], flow[0, :, 1], s=size, c="white", ec=MUTED, lw=0.7, zorder=2, label="start")
    axes.scatter(flow[-1, :, 0], flow[-1, :, 1], s=size, c=KEEP, lw=0, zorder=3, label="end")


def _measure_reach(flow: NDArray[Any]) -> float:
    """Return half the side of a window that holds the paths, except a few that diverge."""
    finite = np.abs(flow[np.isfinite(flow)])
    return 1.05 * min(float(finite.max()), 2 * float(np.quantile(finite, 0.99))) if finite.size else 0.0


# Clouds


def _make_masks(
    clouds: Sequence[NDArray[Any]], forgotten: Sequence[NDArray[Any]] | None
) -> list[NDArray[Any]]:
    if forgotten is None:
        return [np.zeros(len(points), bool) for points in clouds]
    if len(forgotten) != len(clouds):
        raise InputError(f"got judgements of {len(forgotten)} panels; expected {len(clouds)}")
    return [
        as_array(mask, (len(points),), "judgements") > 0.5
        for mask, points in zip(forgotten, clouds, strict=True)
    ]


def _draw_cloud(axes: Axes, points: NDArray[Any], mask: NDArray[Any], marks: NDArray[Any] | None) -> None:
    size = float(np.clip(6000 / max(len(points), 1), 1.5, 12))
    for chosen, colour, layer in ((~mask, KEEP, 1), (mask, FORGET, 2)):
        axes.scatter(points[chosen, 0], points[chosen, 1], s=size, c=colour, lw=0, alpha=0.55, zorder=layer)
    if marks is not None:
        axes.scatter(marks[:, 0], marks[:, 1], s=30, c=INK, marker="x", lw=1.1, zorder=3)


def _describe_cloud(points: NDArray[Any], mask: NDArray[Any], is_judged: bool) -> str:
    """Return the forgotten share, and the number of points outside the window, in words."""
    outside = int((~(np.abs(points) <= 1.1).all(1)).sum())
    share = f"{100 * mask.mean():.1f} % forgotten" if is_judged else f"{len(points):,} points"
    return share + (f", {outside:,} outside" if outside else "")


def _draw_cloud_legend(figure: Figure, is_judged: bool, marks_name: str) -> None:
    from matplotlib.lines import Line2D

    def handle(colour: str, marker: str, label: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, ls="", label=label)

    handles = [handle(FORGET, "o", "judged forgotten"), handle(KEEP, "o", "judged retained")] * is_judged
    handles += [handle(INK, "x", marks_name)] if marks_name else []
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=3, handletextpad=0.1)
