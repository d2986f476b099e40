"""Charts: metrics against the strength, and bars in groups."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.reproduce.figures.checks import as_array, require_some
from unflow.evidence.reproduce.figures.drawing import Drawing, new_drawing, put_title, write_drawings
from unflow.evidence.reproduce.figures.images import draw_strips
from unflow.evidence.reproduce.figures.style import COLOURS, INK, KEEP, LINE, MUTED, WIDTH
from unflow.ground.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_strength_sweep(
    path: Path,
    strengths: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    target_curves: Mapping[str, Sequence[float]],
    images: Sequence[NDArray[Any]] | None = None,
    *,
    n: int = 16,
) -> Path:
    """Draw metrics against the strength, and below them one strip of samples per strength.

    Args:
        path: the PNG file.
        strengths: of the tilt, shape [k]; 0 does not change the model, below 0 samples more of the class.
        curves: the model's value [k] of each metric; NaN leaves a gap.
        target_curves: the exact target's value [k] of some of these metrics.
        images: for each strength, samples [n or more, 1 or 3, height, width] in [-1, 1].
        n: samples in a strip.

    Raises:
        InputError: for curves of other lengths, a target curve without its model's, or no curves.
    """
    require_some(curves, "curves")
    at = as_array(strengths, (None,), "strengths")
    if not np.isfinite(at).all():
        raise InputError("got a strength that is not finite; expected numbers")
    if lost := sorted(target_curves.keys() - curves.keys()):
        raise InputError(f"got a target curve of {lost[0]!r} and none of the model; expected both")
    lines = {k: as_array(v, (len(at),), f"curve of {k!r}") for k, v in curves.items()}
    dashed = {k: as_array(v, (len(at),), f"target curve of {k!r}") for k, v in target_curves.items()}
    order = np.argsort(at, kind="stable")
    drawings = []
    if images is not None:
        if len(images) != len(at):
            raise InputError(f"got samples of {len(images)} strengths; expected {len(at)}")
        drawings.append(draw_strips([(_name_strength(at[i]), images[i]) for i in order], n, WIDTH))
    drawings.insert(0, _draw_sweep(at, order, lines, dashed))
    return write_drawings(path, *drawings)


def draw_bars(
    path: Path,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    ylabel: str,
    errors: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Draw bars in groups, one bar of each series in every group.

    Args:
        path: the PNG file.
        groups: names [g] below the groups.
        series: heights [g] of each series; NaN is shown as –.
        ylabel: label of the heights.
        errors: half lengths [g] of error bars for some of the series; NaN draws none.

    Raises:
        InputError: for series of other lengths, errors of an unknown series, or more than 8 series.
    """
    require_some(groups, "groups")
    require_some(series, "series")
    if len(series) > len(COLOURS):
        raise InputError(f"got {len(series)} series; expected at most {len(COLOURS)}")
    heights = {k: as_array(v, (len(groups),), f"series {k!r}") for k, v in series.items()}
    spreads = _check_errors(errors or {}, series, len(groups))
    with new_drawing(WIDTH, 520) as drawing:
        axes = drawing.figure.add_subplot()
        width = min(0.8 / len(series), 0.08 * len(groups))
        for i, (name, values) in enumerate(heights.items()):
            x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
            axes.bar(x, values, width * 0.92, color=COLOURS[i], label=name)
            _draw_whiskers(axes, x, values, spreads.get(name))
            for gone in x[np.isnan(values)]:
                axes.text(gone, 0, "–", ha="center", va="bottom", color=MUTED)
        _draw_ground(axes, heights, ylabel)
        letters = max(6, 110 // len(groups))
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_xticks(range(len(groups)), [textwrap.fill(group, letters) for group in groups])
        if len(series) > 1:
            drawing.figure.legend(loc="outside upper left", ncols=4, handlelength=1, handleheight=1)
    return write_drawings(path, drawing)


# Metrics against the strength


def _draw_sweep(
    at: NDArray[Any],
    order: NDArray[Any],
    lines: Mapping[str, NDArray[Any]],
    dashed: Mapping[str, NDArray[Any]],
) -> Drawing:
    """Return one small chart per metric, at most four in a row."""
    ncols = min(len(lines), 4 if len(lines) != 5 and len(lines) != 6 else 3)
    nrows = math.ceil(len(lines) / ncols)
    with new_drawing(WIDTH, 390 * nrows + 30) as drawing:
        grid = drawing.figure.subplots(nrows, ncols, squeeze=False, sharex=True)
        for axes in grid.flat[len(lines) :]:
            axes.set_visible(False)
        for i, (axes, name) in enumerate(zip(grid.flat, lines, strict=False)):
            axes.axvline(0, color=LINE, lw=1, zorder=0)
            axes.grid(axis="y")
            axes.plot(at[order], lines[name][order], color=KEEP, marker="o", label="model")
            if name in dashed:
                axes.plot(at[order], dashed[name][order], color=INK, ls=(0, (4, 2)), label="exact target")
            put_title(axes, textwrap.fill(name, WIDTH // ncols // 11))
            if i + ncols >= len(lines):
                axes.set_xlabel("strength λ")
                axes.tick_params(labelbottom=True)
        found = {label: h for a in grid.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
        drawing.figure.legend(
            list(found.values()), list(found), loc="outside upper left", ncols=2, handlelength=2.4
        )
    return drawing


def _name_strength(strength: float) -> str:
    words = f"λ = {strength:g}".replace("-", "−")
    return words + ("\nas it is" if strength == 0 else "")


# Bars


def _check_errors(
    errors: Mapping[str, Sequence[float]], series: Mapping[str, Sequence[float]], n: int
) -> dict[str, NDArray[Any]]:
    if lost := sorted(errors.keys() - series.keys()):
        raise InputError(f"got errors of {lost[0]!r}; expected one of {', '.join(series)}")
    spreads = {name: as_array(values, (n,), f"errors of {name!r}") for name, values in errors.items()}
    if any((values < 0).any() for values in spreads.values()):
        raise InputError("got an error bar below 0; expected half lengths of 0 or more")
    return spreads


def _draw_whiskers(axes: Axes, x: NDArray[Any], heights: NDArray[Any], spread: NDArray[Any] | None) -> None:
    if spread is not None:
        axes.errorbar(x, heights, yerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)


def _draw_ground(axes: Axes, heights: Mapping[str, NDArray[Any]], ylabel: str) -> None:
    """Draw a base line at 0 and faint horizontal lines below bars."""
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    if any((values < 0).any() for values in heights.values()):
        axes.spines["bottom"].set_visible(False)
        axes.axhline(0, color=MUTED, lw=0.8)
