"""Charts of one row each: class shares, energies and training losses, on scales common to a family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.report.read import Run
from unflow.evidence.report.scales import find_limit
from unflow.evidence.report.svg import FORGET, FOURTH, INK, KEEP, LINE, MUTED, THIRD, draw_chart
from unflow.evidence.report.words import format_number, row_label
from unflow.evidence.row import REFERENCES, AuditRow

if TYPE_CHECKING:
    from markupsafe import Markup

Array = NDArray[np.float64]
CYCLE = (KEEP, FORGET, THIRD, FOURTH, MUTED)
NOT_LOSSES = ("step", "seconds", "held_out")


def draw_class_shares(run: Run, row: AuditRow, name: str) -> Markup:
    """Draw a row's class shares as bars, the original's as outlines and the exact target's as lines."""
    original, target = (run.row(row.family, method) for method in ("original", "target"))
    before, goal, after = (None if other is None else _shares(other) for other in (original, target, row))
    assert after is not None
    names = [run.class_name(k) for k in range(len(after))]
    shown = ", ".join(f"{k} {format_number(v, 1)} %" for k, v in zip(names, after, strict=True))
    are_long = max(map(len, names)) > 2 and 4 < len(after) <= 30
    size = (2.75, 1.75 + 0.062 * max(map(len, names)) * are_long)
    with draw_chart(name, f"Class shares of {row_label(row.method)}: {shown}", size) as chart:
        axes = chart.axes
        colours = [FORGET if k in run.forget else KEEP for k in range(len(after))]
        x = np.arange(len(after))
        axes.bar(x, after, width=0.72, color=colours)
        if before is not None and row is not original:
            axes.bar(x, before, width=0.9, facecolor="none", edgecolor=MUTED, linewidth=0.8)
        if goal is not None and row is not target:
            axes.hlines(goal, x - 0.45, x + 0.45, color=INK, linewidth=1.3)
        if len(after) <= 30:
            axes.set_xticks(x, names, rotation=90 if are_long else 0)
        top = 1.08 * _largest_share(run, row.family)
        axes.set_ylim(0, top)
        for k in np.flatnonzero(after > top):
            axes.text(x[k], top, f"{after[k]:.0f} ↑", ha="center", va="bottom", fontsize=7.5)
        axes.locator_params(axis="y", nbins=4)
        axes.set_ylabel("% of samples")
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
    return chart.svg


def has_class_shares(row: AuditRow) -> bool:
    """Return whether the samples of a row were counted by class."""
    return _shares(row) is not None


def _shares(row: AuditRow) -> Array | None:
    counts = np.asarray(row.class_counts or [0], dtype=np.float64)
    return 100 * counts / counts.sum() if counts.sum() else None


def _largest_share(run: Run, family: str) -> float:
    """Return the largest share of a class in a family; a collapsed row, apart from all others, has no say."""
    shares = ((_shares(row), row.is_reference) for row in run.rows_of(family))
    known = [(float(share.max()), is_reference) for share, is_reference in shares if share is not None]
    return find_limit(known) if known else 1.0


def draw_energies(run: Run, row: AuditRow, name: str) -> Markup:
    """Draw the histogram of a row's energies, the original's as an outline, the target's dashed."""
    of_family = {r.method: _finite_energies(run, r) for r in run.rows_of(row.family)}
    known = {method: energy for method, energy in of_family.items() if energy is not None}
    low, high = _find_energy_range(known)
    beyond = float((known[row.method] > high).mean())
    known = {method: np.minimum(energy, high) for method, energy in known.items()}
    edges = np.linspace(low, high if high > low else low + 1, 31)
    bottom = 50 / max(map(len, known.values()))
    after, whole = known[row.method], of_family[row.method]
    assert whole is not None
    description = (
        f"Energies of {row_label(row.method)}: median {format_number(float(np.median(whole)))}, "
        f"99th percentile {format_number(float(np.quantile(whole, 0.99)))}"
    )
    with draw_chart(name, description) as chart:
        axes = chart.axes
        axes.stairs(_percent(after, edges), edges, baseline=bottom, fill=True, color=KEEP)
        for method, colour, dash in (("original", FORGET, "-"), ("target", INK, (0, (2, 1.5)))):
            if method in known and method != row.method:
                percent = np.maximum(_percent(known[method], edges), bottom)
                axes.stairs(percent, edges, baseline=bottom, color=colour, linewidth=1.2, linestyle=dash)
        axes.set_yscale("log")
        axes.set_ylim(bottom, 130)
        ticks = [t for t in (0.01, 0.1, 1, 10, 100) if t >= bottom]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_yticks([], minor=True)
        axes.locator_params(axis="x", nbins=6)
        if beyond:
            most = f"{format_number(100 * beyond, 1)} % up to {format_number(float(whole.max()), 0)} →"
            axes.text(1, 1.01, most, transform=axes.transAxes, ha="right", va="bottom", fontsize=7.5)
        axes.set_xlabel("energy F(x), nats")
        axes.set_ylabel("% of samples")
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
    return chart.svg


def _find_energy_range(known: Mapping[str, Array]) -> tuple[float, float]:
    """Return the ends of a family's energies; a row whose largest is apart from all others has no say."""
    low = min(float(energy.min()) for energy in known.values())
    reaches = [(float(energy.max()) - low, method in REFERENCES) for method, energy in known.items()]
    return low, low + find_limit(reaches)


def has_energies(run: Run, row: AuditRow) -> bool:
    """Return whether at least one sample of a row has a finite energy."""
    return _finite_energies(run, row) is not None


def _finite_energies(run: Run, row: AuditRow) -> Array | None:
    samples = run.samples.get(row.key)
    if samples is None or samples.energy is None:
        return None
    finite = samples.energy[np.isfinite(samples.energy)].astype(np.float64)
    return finite if len(finite) else None


def _percent(values: Array, edges: Array) -> Array:
    return 100 * np.histogram(values, edges)[0] / len(values)


def list_losses(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the losses in a training log, in order of appearance."""
    names = dict.fromkeys(key for record in records for key in record)
    return [k for k in names if k not in NOT_LOSSES and np.isfinite(_read_column(records, k)).any()]


def draw_losses(folder: str, records: Sequence[Mapping[str, Any]], name: str) -> Markup:
    """Draw the losses of one training: logged values faint, moving means bold, held-out losses as dots."""
    losses, steps = list_losses(records), _read_column(records, "step")
    held_out = _read_column(records, "held_out")
    finals = ", ".join(f"{k} {format_number(_last_finite(_read_column(records, k)), 4)}" for k in losses)
    with draw_chart(name, f"Training of {folder}: last values {finals}") as chart:
        axes = chart.axes
        every = max(1, len(records) // 300)
        for loss, colour in zip(losses, CYCLE, strict=False):
            values = _read_column(records, loss)
            axes.plot(steps[::every], values[::every], color=colour, alpha=0.3, linewidth=0.7)
            smooth = _moving_mean(values, max(1, len(values) // 25))
            axes.plot(steps[::every], smooth[::every], color=colour, label=loss)
        shown = np.isfinite(held_out)
        if shown.any():
            axes.plot(steps[shown], held_out[shown], "o", color=INK, markersize=2.4, label="held out")
        everything = np.concatenate([_read_column(records, k) for k in [*losses, "held_out"]])
        finite = everything[np.isfinite(everything)]
        if finite.min() > 0 and finite.max() > 100 * finite.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.spines["left"].set_color(LINE)
        axes.locator_params(axis="x", nbins=5)
        axes.figure.legend(loc="outside upper left", ncols=4, columnspacing=1.0, borderpad=0.1)
    return chart.svg


def _read_column(records: Sequence[Mapping[str, Any]], key: str) -> Array:
    values = (record.get(key) for record in records)
    return np.array(
        [math.nan if isinstance(v, bool | str | list | dict | None) else v for v in values], dtype=np.float64
    )


def _last_finite(values: Array) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else None


def _moving_mean(values: Array, width: int) -> Array:
    """Return the mean of the finite values among the last ``width`` values; NaN if there are none."""
    is_finite = np.isfinite(values)
    sums = np.cumsum(np.concatenate([[0.0], np.where(is_finite, values, 0.0)]))
    counts = np.cumsum(np.concatenate([[0], is_finite]))
    start = np.maximum(np.arange(len(values)) + 1 - width, 0)
    number_of = counts[1:] - counts[start]
    total = sums[1:] - sums[start]
    return np.where(number_of > 0, total / np.maximum(number_of, 1), math.nan)
