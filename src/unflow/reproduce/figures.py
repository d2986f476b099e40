"""From arrays to PNG files: the same arrays give the same bytes, and bad ones give no file."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.errors import InputError
from unflow.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 140
WIDTH = 1288
"""Pixels across a full figure."""

INK, MUTED, LINE, KEEP, FORGET = "#1e2227", "#5b636c", "#d4d2cc", "#0f67a6", "#bf4d0d"
COLOURS = (KEEP, "#e39a5b", "#00795f", "#8b4c87", "#8d959d", "#b8a436", "#74b3dd", INK)
"""Of series, in order; neighbours differ in lightness as well as in hue."""

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e9e7e2",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}
GAP, GUTTER, LABEL = 3, 40, 200
"""Pixels between images, between blocks of images, and for the label of a strip."""


def scatter_panels(
    path: Path,
    panels: Sequence[tuple[str, NDArray[Any]]],
    *,
    ncols: int = 5,
    marks: NDArray[Any] | None = None,
    marks_name: str = "mode",
    forgotten: Sequence[NDArray[Any]] | None = None,
) -> Path:
    """Draw clouds of points side by side, in the same window [-1.1, 1.1]².

    Points outside the window are not drawn, but counted in the panel's caption.

    Args:
        path: the PNG file.
        panels: title and points [n, 2] of each panel.
        ncols: panels in a row.
        marks: points [k, 2] to mark with a cross in every panel.
        marks_name: what the legend calls a mark.
        forgotten: for each panel, bool [n]: which points the judge calls forgotten.

    Raises:
        InputError: for arrays of other shapes, or no panels.
    """
    _need(panels, "panels")
    clouds = [_array(points, (None, 2), f"points of {title!r}") for title, points in panels]
    masks = _masks(clouds, forgotten)
    crosses = None if marks is None else _array(marks, (None, 2), "marks")
    if ncols < 1:
        raise InputError(f"got ncols={ncols}; expected 1 or more")
    ncols = min(ncols, len(panels))
    nrows = -(-len(panels) // ncols)
    side = min(430, WIDTH // ncols)
    with _drawing(side * ncols, (side + 90) * nrows + 60, "compressed") as drawing:
        grid = drawing.figure.subplots(nrows, ncols, squeeze=False)
        for i, axes in enumerate(grid.flat):
            axes.set_visible(i < len(panels))
            is_outer = (i + ncols >= len(panels), i % ncols == 0)
            _square(axes, 1.1, (-1, 0, 1), is_outer)
        for axes, (title, _), points, mask in zip(grid.flat, panels, clouds, masks, strict=False):
            _cloud(axes, points, mask, crosses)
            _title(axes, textwrap.fill(title, side // 11), _cloud_words(points, mask, forgotten is not None))
        _cloud_legend(drawing.figure, forgotten is not None, marks_name if crosses is not None else "")
    return _write(path, drawing)


def trajectories(
    path: Path,
    learning: NDArray[Any],
    unlearning: NDArray[Any],
    energy: NDArray[Any],
    extent: tuple[float, float, float, float],
    *,
    names: tuple[str, str] = ("noise to data", "original to unlearned"),
) -> Path:
    """Draw the paths of points through two flows over the energy that the second one reads.

    Args:
        path: the PNG file.
        learning: positions [steps + 1, n, 2] on the way from noise to data.
        unlearning: positions [steps + 1, n, 2] on the way from the original to the unlearned model.
        energy: F on a grid [g, g]; row i is at the i-th height from below.
        extent: left, right, bottom and top of the grid; grey is what the panels show beyond it.
        names: titles of the two panels.

    Raises:
        InputError: for arrays of other shapes, or an energy or extent that is not finite.
    """
    flows = [_array(x, (None, None, 2), name) for x, name in zip((learning, unlearning), names, strict=True)]
    field = _array(energy, (None, None), "energy")
    if not np.isfinite(field).all():
        raise InputError("got an energy with NaN or infinity on the grid; expected finite values")
    if not (extent[0] < extent[1] and extent[2] < extent[3]):
        raise InputError(f"got the extent {extent}; expected left < right and bottom < top")
    near = max(1.1, _reach(flows[1]))
    with _drawing(WIDTH, 720, "compressed") as drawing:
        both = drawing.figure.subplots(1, 2)
        for axes, flow, name, reach in zip(
            both, flows, names, (max(near, _reach(flows[0])), near), strict=True
        ):
            image = axes.imshow(
                field, origin="lower", extent=extent, cmap=_soft(), interpolation="bilinear", zorder=0
            )
            _square(axes, reach, None, (True, True))
            axes.set_facecolor("#f1f0ec")  # white is a low energy; off the grid it is not known
            _paths(axes, flow)
            _title(axes, name, f"{flow.shape[1]:,} paths of {len(flow) - 1} steps")
        beside = both[1].inset_axes((1.04, 0, 0.03, 1))
        bar = drawing.figure.colorbar(image, cax=beside, label="energy F(x)")
        bar.outline.set_visible(False)
        handles = both[0].get_legend_handles_labels()
        drawing.figure.legend(*handles, loc="outside lower left", ncols=2, markerscale=1.6)
    return _write(path, drawing)


def image_columns(
    path: Path,
    columns: Sequence[tuple[str, NDArray[Any]]],
    *,
    rows: int = 6,
    per_row: int = 6,
) -> Path:
    """Draw blocks of images side by side, each with its title.

    Args:
        path: the PNG file.
        columns: title and images [n, 1 or 3, height, width] in [-1, 1] of each block.
        rows: rows of images in a block.
        per_row: images in a row of a block; the first rows * per_row are shown.

    Raises:
        InputError: for arrays of other shapes, or no columns.
    """
    _need(columns, "columns")
    if min(rows, per_row) < 1:
        raise InputError(f"got rows={rows} and per_row={per_row}; expected 1 or more of each")
    stacks = _stacks(columns)
    room = (WIDTH - GUTTER * (len(stacks) - 1)) // len(stacks)
    side = max(1, room // per_row - GAP)
    blocks = [_mosaic(images[: rows * per_row], per_row, side) for images in stacks]
    step = blocks[0].shape[1] + GUTTER
    titles = [textwrap.fill(title, step // 11) for title, _ in columns]
    top = 26 * max(title.count("\n") + 1 for title in titles)
    height = top + max(block.shape[0] for block in blocks)
    with _drawing(step * len(blocks) - GUTTER, height, layout="none") as drawing:
        for i, (title, block) in enumerate(zip(titles, blocks, strict=True)):
            drawing.text(i * step, top - 8, title, va="bottom", size=9.5)
            drawing.image(i * step, top, block)
    return _write(path, drawing)


def image_rows(path: Path, rows: Sequence[tuple[str, NDArray[Any]]], *, n: int = 16) -> Path:
    """Draw one labelled strip of images per row: every column is one latent.

    Args:
        path: the PNG file.
        rows: label and images [n or more, 1 or 3, height, width] in [-1, 1] of each strip.
        n: images in a strip.

    Raises:
        InputError: for arrays of other shapes, or no rows.
    """
    return _write(path, _strips(rows, n))


def strength_sweep(
    path: Path,
    strengths: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    target_curves: Mapping[str, Sequence[float]],
    images: Sequence[NDArray[Any]] | None = None,
    *,
    n: int = 16,
) -> Path:
    """Draw metrics against the strength, and below them a strip of samples per strength.

    Args:
        path: the PNG file.
        strengths: of the tilt, shape [k]; 0 leaves the model as it is, below 0 draws more of the class.
        curves: the model's value [k] of each metric; NaN leaves a gap.
        target_curves: the exact target's value [k] of some of these metrics.
        images: for each strength, samples [n or more, 1 or 3, height, width] in [-1, 1].
        n: samples in a strip.

    Raises:
        InputError: for curves of other lengths, a target curve without its model's, or no curves.
    """
    _need(curves, "curves")
    at = _array(strengths, (None,), "strengths")
    if not np.isfinite(at).all():
        raise InputError("got a strength that is not finite; expected numbers")
    if lost := sorted(target_curves.keys() - curves.keys()):
        raise InputError(f"got a target curve of {lost[0]!r} and none of the model; expected both")
    lines = {k: _array(v, (len(at),), f"curve of {k!r}") for k, v in curves.items()}
    dashed = {k: _array(v, (len(at),), f"target curve of {k!r}") for k, v in target_curves.items()}
    order = np.argsort(at, kind="stable")
    drawings = []
    if images is not None:
        if len(images) != len(at):
            raise InputError(f"got samples of {len(images)} strengths; expected {len(at)}")
        drawings.append(_strips([(_strength_name(at[i]), images[i]) for i in order], n, WIDTH))
    drawings.insert(0, _sweep(at, order, lines, dashed))
    return _write(path, *drawings)


def bars(
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
        ylabel: what the heights are.
        errors: half lengths [g] of error bars for some of the series; NaN draws none.

    Raises:
        InputError: for series of other lengths, errors of an unknown series, or more than 8 series.
    """
    _need(groups, "groups")
    _need(series, "series")
    if len(series) > len(COLOURS):
        raise InputError(f"got {len(series)} series; expected at most {len(COLOURS)}")
    heights = {k: _array(v, (len(groups),), f"series {k!r}") for k, v in series.items()}
    spreads = _spreads(errors or {}, series, len(groups))
    with _drawing(WIDTH, 520) as drawing:
        axes = drawing.figure.add_subplot()
        width = min(0.8 / len(series), 0.08 * len(groups))
        for i, (name, values) in enumerate(heights.items()):
            x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
            axes.bar(x, values, width * 0.92, color=COLOURS[i], label=name)
            _whiskers(axes, x, values, spreads.get(name))
            for gone in x[np.isnan(values)]:
                axes.text(gone, 0, "–", ha="center", va="bottom", color=MUTED)
        _ground(axes, heights, ylabel)
        letters = max(6, 110 // len(groups))
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_xticks(range(len(groups)), [textwrap.fill(group, letters) for group in groups])
        if len(series) > 1:
            drawing.figure.legend(loc="outside upper left", ncols=4, handlelength=1, handleheight=1)
    return _write(path, drawing)


def trade_off(
    path: Path,
    curves: Mapping[str, Sequence[tuple[float, float, bool]]],
    references: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    ylabel: str,
) -> Path:
    """Draw what each method forgets against what that costs: one curve per method, a point per strength.

    Args:
        path: the PNG file.
        curves: of each method, points (cost > 0, percent forgotten, whether it is the default) in order of
            strength; the default is drawn larger.
        references: single points (cost, percent) to compare with.
        xlabel: of the cost.
        ylabel: of what is forgotten.

    Raises:
        InputError: for no curves, or more than 16.
    """
    _need(curves, "curves")
    if len(curves) > 2 * len(COLOURS):
        raise InputError(f"got {len(curves)} curves; expected at most {2 * len(COLOURS)}")
    points = {k: _array([p[:2] for p in v], (None, 2), f"curve of {k!r}") for k, v in curves.items()}
    with _drawing(WIDTH, 620) as drawing:
        wide, close = drawing.figure.subplots(1, 2, width_ratios=(1, 1.25))
        for axes in (wide, close):
            for i, (name, xy) in enumerate(points.items()):
                colour, style = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else (0, (3, 1.5))
                axes.plot(*xy.T, color=colour, ls=style, marker="o", ms=3.5, label=name)
                chosen = np.array([p[2] for p in curves[name]], bool)
                axes.plot(*xy[chosen].T, color=colour, ls="", marker="o", ms=8)
            for (name, (x, y)), mark in zip(references.items(), "*DsP^", strict=False):
                axes.plot([x], [y], color=INK, ls="", marker=mark, ms=9, label=name, zorder=3)
            axes.set_xscale("log")
            axes.set_xlabel(xlabel)
            axes.grid()
        low = [x for x, y in references.values() if y > 50] or [points[k][:, 0].min() for k in points]
        close.set_ylim(80, 100.5)
        close.set_xlim(0.7 * min(low), 6 * min(low))
        _title(wide, "everything")
        _title(close, "where it is decided")
        wide.set_ylabel(ylabel)
        handles, labels = wide.get_legend_handles_labels()
        drawing.figure.legend(handles, labels, loc="outside upper left", ncols=6, handlelength=2)
    return _write(path, drawing)


def redistribution(
    path: Path, matrices: Mapping[str, NDArray[Any]], class_names: Sequence[str], forget: Sequence[int]
) -> Path:
    """Draw for each method which class the latents of each class have become, in percent of a row.

    Args:
        path: the PNG file.
        matrices: of each method, counts [classes, classes]: class before, class after.
        class_names: of the classes.
        forget: forgotten classes, whose rows are framed.

    Raises:
        InputError: for no matrices, or of another shape.
    """
    _need(matrices, "matrices")
    n = len(class_names)
    shares = {}
    for name, counts in matrices.items():
        matrix = _array(counts, (n, n), f"matrix of {name!r}")
        shares[name] = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    ncols = min(4, len(shares))
    nrows = math.ceil(len(shares) / ncols)
    with _drawing(WIDTH, 340 * nrows) as drawing:
        grid = drawing.figure.subplots(nrows, ncols, squeeze=False)
        for axes in grid.flat[len(shares) :]:
            axes.set_visible(False)
        for axes, (name, share) in zip(grid.flat, shares.items(), strict=False):
            axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
            for i, j in zip(*np.nonzero(share >= 1), strict=True):
                dark = share[i, j] > 60
                axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", fontsize=4.5,
                          color="white" if dark else INK)  # fmt: skip
            for k in forget:
                axes.axhspan(k - 0.5, k + 0.5, fill=False, ec=FORGET, lw=1.2)
            names = [name[:9] for name in class_names]
            axes.set_xticks(range(n), names, fontsize=5.5, rotation=90 if max(map(len, names)) > 2 else 0)
            axes.set_yticks(range(n), names, fontsize=5.5)
            _title(axes, name)
    return _write(path, drawing)


# Pictures in the making


class _Drawing:
    """A figure measured in pixels from its upper left corner, and the pixels that it became."""

    def __init__(self, figure: Figure, width: int, height: int) -> None:
        self.figure, self.width, self.height = figure, width, height
        self.pixels = np.zeros((0, 0, 3), np.uint8)

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Write words at a pixel."""
        self.figure.text(x / self.width, 1 - y / self.height, words, **how)

    def image(self, x: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Put pixels [h, w, 3] there as they are: no pixel of an image is stretched more than another."""
        self.figure.figimage(pixels, x, self.height - y - len(pixels), origin="upper")


@contextmanager
def _drawing(width: int, height: int, layout: Any = "constrained") -> Iterator[_Drawing]:
    """Give a figure of that many pixels to draw on; afterwards ``pixels`` holds the picture."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # its stubs list every key
        size = ((width + 0.01) / DPI, (height + 0.01) / DPI)  # matplotlib cuts 1287.99 to 1287
        drawing = _Drawing(Figure(figsize=size, dpi=DPI, layout=layout), width, height)
        yield drawing
        canvas = FigureCanvasAgg(drawing.figure)
        canvas.draw()
        drawing.pixels = np.array(canvas.buffer_rgba())[:, :, :3]


def _write(path: Path, *drawings: _Drawing) -> Path:
    """Write drawings, one above the other, as one PNG file without a date or a maker."""
    from PIL import Image

    width = max(d.pixels.shape[1] for d in drawings)
    gaps = [((0, 0), (0, width - d.pixels.shape[1]), (0, 0)) for d in drawings]
    sheets = [np.pad(d.pixels, gap, constant_values=255) for d, gap in zip(drawings, gaps, strict=True)]
    edge = ((12, 12), (12, 12), (0, 0))
    sheet = np.concatenate([np.pad(_trimmed(sheet), edge, constant_values=255) for sheet in sheets])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="png", dpi=(DPI, DPI))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def _trimmed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture without empty lines above and below; a layout of squares leaves some."""
    used = np.flatnonzero((pixels < 255).any((1, 2)))
    return pixels[used[0] : used[-1] + 1] if len(used) else pixels


# Axes


def _title(axes: Axes, title: str, caption: str = "") -> None:
    """Put a title over axes, and a caption between the two."""
    axes.set_title(title, pad=5 + 13 * bool(caption))
    axes.annotate(
        caption, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", color=MUTED, size=8.5
    )


def _square(axes: Axes, reach: float, ticks: Sequence[float] | None, is_outer: tuple[bool, bool]) -> None:
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.spines[:].set_visible(True)
    if ticks is not None:
        axes.set(xticks=ticks, yticks=ticks)
    else:
        axes.locator_params(nbins=6)
    axes.tick_params(labelbottom=is_outer[0], labelleft=is_outer[1])


def _soft() -> Any:
    """Return the colours of a background: from white to a pale orange, below all that is drawn on it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("soft", ["#ffffff", "#fbe6d8", "#efb58e"])


def _paths(axes: Axes, flow: NDArray[Any]) -> None:
    from matplotlib.collections import LineCollection

    alpha = float(np.clip(60 / flow.shape[1], 0.12, 0.6))
    axes.add_collection(LineCollection(list(flow.swapaxes(0, 1)), colors=MUTED, linewidths=0.7, alpha=alpha))
    size = float(np.clip(3000 / flow.shape[1], 5, 16))
    axes.scatter(flow[0, :, 0], flow[0, :, 1], s=size, c="white", ec=MUTED, lw=0.7, zorder=2, label="start")
    axes.scatter(flow[-1, :, 0], flow[-1, :, 1], s=size, c=KEEP, lw=0, zorder=3, label="end")


def _reach(flow: NDArray[Any]) -> float:
    """Return half the side of a window that holds the paths; a few that diverge may leave it."""
    finite = np.abs(flow[np.isfinite(flow)])
    return 1.05 * min(float(finite.max()), 2 * float(np.quantile(finite, 0.99))) if finite.size else 0.0


def _cloud(axes: Axes, points: NDArray[Any], mask: NDArray[Any], marks: NDArray[Any] | None) -> None:
    size = float(np.clip(6000 / max(len(points), 1), 1.5, 12))
    for chosen, colour, layer in ((~mask, KEEP, 1), (mask, FORGET, 2)):
        axes.scatter(points[chosen, 0], points[chosen, 1], s=size, c=colour, lw=0, alpha=0.55, zorder=layer)
    if marks is not None:
        axes.scatter(marks[:, 0], marks[:, 1], s=30, c=INK, marker="x", lw=1.1, zorder=3)


def _cloud_words(points: NDArray[Any], mask: NDArray[Any], is_judged: bool) -> str:
    """Return the share that is forgotten, and how many points the window does not show."""
    outside = int((~(np.abs(points) <= 1.1).all(1)).sum())
    share = f"{100 * mask.mean():.1f} % forgotten" if is_judged else f"{len(points):,} points"
    return share + (f", {outside:,} outside" if outside else "")


def _cloud_legend(figure: Figure, is_judged: bool, marks_name: str) -> None:
    from matplotlib.lines import Line2D

    def handle(colour: str, marker: str, label: str) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, ls="", label=label)

    handles = [handle(FORGET, "o", "judged forgotten"), handle(KEEP, "o", "judged retained")] * is_judged
    handles += [handle(INK, "x", marks_name)] if marks_name else []
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=3, handletextpad=0.1)


def _sweep(
    at: NDArray[Any],
    order: NDArray[Any],
    lines: Mapping[str, NDArray[Any]],
    dashed: Mapping[str, NDArray[Any]],
) -> _Drawing:
    """Return one small chart per metric, at most four in a row."""
    ncols = min(len(lines), 4 if len(lines) != 5 and len(lines) != 6 else 3)
    nrows = math.ceil(len(lines) / ncols)
    with _drawing(WIDTH, 390 * nrows + 30) as drawing:
        grid = drawing.figure.subplots(nrows, ncols, squeeze=False, sharex=True)
        for axes in grid.flat[len(lines) :]:
            axes.set_visible(False)
        for i, (axes, name) in enumerate(zip(grid.flat, lines, strict=False)):
            axes.axvline(0, color=LINE, lw=1, zorder=0)
            axes.grid(axis="y")
            axes.plot(at[order], lines[name][order], color=KEEP, marker="o", label="model")
            if name in dashed:
                axes.plot(at[order], dashed[name][order], color=INK, ls=(0, (4, 2)), label="exact target")
            _title(axes, textwrap.fill(name, WIDTH // ncols // 11))
            if i + ncols >= len(lines):
                axes.set_xlabel("strength λ")
                axes.tick_params(labelbottom=True)
        found = {label: h for a in grid.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
        drawing.figure.legend(
            list(found.values()), list(found), loc="outside upper left", ncols=2, handlelength=2.4
        )
    return drawing


def _strength_name(strength: float) -> str:
    words = f"λ = {strength:g}".replace("-", "−")
    return words + ("\nas it is" if strength == 0 else "")


def _whiskers(axes: Axes, x: NDArray[Any], heights: NDArray[Any], spread: NDArray[Any] | None) -> None:
    if spread is not None:
        axes.errorbar(x, heights, yerr=spread, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)


def _ground(axes: Axes, heights: Mapping[str, NDArray[Any]], ylabel: str) -> None:
    """Give bars a ground line at 0, and faint lines to read their heights by."""
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    if any((values < 0).any() for values in heights.values()):
        axes.spines["bottom"].set_visible(False)
        axes.axhline(0, color=MUTED, lw=0.8)


# Images


def _strips(rows: Sequence[tuple[str, NDArray[Any]]], n: int, width: int = 0) -> _Drawing:
    """Return labelled strips of images, the labels at the left."""
    _need(rows, "rows")
    if n < 1:
        raise InputError(f"got n={n}; expected 1 or more")
    stacks = _stacks(rows)
    n = min(n, max(len(images) for images in stacks))
    side = max(1, min(128, (WIDTH - LABEL) // n - GAP))
    strips = [_mosaic(images[:n], n, side) for images in stacks]
    step = strips[0].shape[0] + 8
    with _drawing(max(width, LABEL + strips[0].shape[1]), step * len(strips), layout="none") as drawing:
        for i, ((label, _), strip) in enumerate(zip(rows, strips, strict=True)):
            words = "\n".join(textwrap.fill(line, 20) for line in label.split("\n"))
            drawing.text(LABEL - 14, i * step + step / 2, words, ha="right", va="center", linespacing=1.1)
            drawing.image(LABEL, i * step + 4, strip)
    return drawing


def _mosaic(images: NDArray[Any], per_row: int, side: int) -> NDArray[np.uint8]:
    """Return images [n, c, h, w] as one picture [height, width, 3], each within ``side`` pixels."""
    tiles = _fit(images, side)
    n, height, width, _ = tiles.shape
    nrows = -(-n // per_row)
    sheet = np.full((nrows, height + GAP, per_row, width + GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        sheet[i // per_row, :height, i % per_row, :width] = tile
    flat = sheet.reshape(nrows * (height + GAP), per_row * (width + GAP), 3)
    return flat[:-GAP, :-GAP]


def _fit(images: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Return images as bytes [n, h, w, 3] within ``side`` pixels, by whole factors; NaN is black."""
    x = np.nan_to_num(images, nan=-1.0, posinf=1.0, neginf=-1.0)
    longest = max(x.shape[2:])
    step = min(-(-longest // side), *x.shape[2:])
    height, width = (edge // step for edge in x.shape[2:])
    blocks = x[:, :, : height * step, : width * step].reshape(*x.shape[:2], height, step, width, step)
    pixels = np.clip(np.rint((blocks.mean((3, 5)) + 1) * 127.5), 0, 255).astype(np.uint8)
    zoom = max(1, side // longest)
    pixels = pixels.repeat(zoom, 2).repeat(zoom, 3)
    return np.broadcast_to(np.moveaxis(pixels, 1, 3), (len(x), *pixels.shape[2:], 3))


# What came in


def _need(values: Any, what: str) -> None:
    if not len(values):
        raise InputError(f"got no {what}; expected 1 or more")


def _array(values: Any, shape: tuple[int | None, ...], what: str) -> NDArray[Any]:
    """Return values as numbers of that shape; None stands for any length of 1 or more."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"got {what} that are not numbers; expected an array {_shape_words(shape)}"
        ) from error
    fits = len(found.shape) == len(shape) and all(
        have == want if want is not None else have > 0 for have, want in zip(found.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"got {what} of shape {list(found.shape)}; expected {_shape_words(shape)}")
    return found


def _shape_words(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if side is None else str(side) for side in shape)}]"


def _masks(clouds: Sequence[NDArray[Any]], forgotten: Sequence[NDArray[Any]] | None) -> list[NDArray[Any]]:
    if forgotten is None:
        return [np.zeros(len(points), bool) for points in clouds]
    if len(forgotten) != len(clouds):
        raise InputError(f"got judgements of {len(forgotten)} panels; expected {len(clouds)}")
    return [
        _array(mask, (len(points),), "judgements") > 0.5
        for mask, points in zip(forgotten, clouds, strict=True)
    ]


def _stacks(named: Sequence[tuple[str, NDArray[Any]]]) -> list[NDArray[Any]]:
    """Return stacks of images, all of one shape."""
    stacks = [_array(images, (None, None, None, None), f"images of {name!r}") for name, images in named]
    shapes = {images.shape[1:] for images in stacks}
    if len(shapes) > 1 or stacks[0].shape[1] not in {1, 3}:
        found = ", ".join(str(list(shape)) for shape in sorted(shapes))
        raise InputError(f"got images of shape {found}; expected one shape, [1 or 3, height, width]")
    return stacks


def _spreads(
    errors: Mapping[str, Sequence[float]], series: Mapping[str, Sequence[float]], n: int
) -> dict[str, NDArray[Any]]:
    if lost := sorted(errors.keys() - series.keys()):
        raise InputError(f"got errors of {lost[0]!r}; expected one of {', '.join(series)}")
    spreads = {name: _array(values, (n,), f"errors of {name!r}") for name, values in errors.items()}
    if any((values < 0).any() for values in spreads.values()):
        raise InputError("got an error bar below 0; expected half lengths of 0 or more")
    return spreads
