"""The forget rates of a family on one axis, with 95 % intervals and the retrained model's rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unflow.evidence.report.read import Run
from unflow.evidence.report.summary import interval, label, per_thousand, tags


@dataclass(frozen=True)
class Dot:
    """The forget rate of a row, per 1,000 samples; positions are fractions of the axis."""

    name: str
    text: str
    low: float
    middle: float
    high: float
    is_reference: bool
    is_over: bool


@dataclass(frozen=True)
class Rates:
    """The forget rates of a family; positions on the axis, including the retrained model's, are in [0, 1]."""

    dots: Sequence[Dot]
    ticks: Sequence[tuple[str, float]]
    retrained: float | None


def place_rates(run: Run, family: str) -> Rates | None:
    """Return a family's forget rates with their sampling intervals; None if no rate was measured."""
    known = [(row, r) for row in run.rows_of(family) if (r := row.number("forget_rate")) is not None]
    if not known:
        return None
    ranges = [interval(r, row.number("n"), 2.0) for row, r in known]
    top = math.log1p(1000 * max(high for _, high in ranges))

    def place(rate: float) -> float:
        return round(math.log1p(1000 * rate) / top, 4) if top else 0.0

    dots = [
        Dot(
            run.row_name(row),
            per_thousand(r),
            place(low),
            place(r),
            place(high),
            row.is_reference,
            "over-forgets" in tags(run, row),
        )
        for (row, r), (low, high) in zip(known, ranges, strict=True)
    ]
    retrained = [r for row, r in known if row.method == "retrained"]
    ticks = [(f"{t:,}", place(t / 1000)) for t in (0, 1, 3, 10, 30, 100, 300, 1000)]
    return Rates(dots, [t for t in ticks if t[1] <= 1], place(retrained[0]) if retrained else None)
