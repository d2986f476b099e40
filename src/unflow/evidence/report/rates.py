"""The forget rates of a family on one axis, with 95 % intervals and the retrained model's rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unflow.evidence.report.read import Run
from unflow.evidence.report.summary import forget_interval, format_per_thousand
from unflow.evidence.row import AuditRow


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
    rows = [row for row in run.rows_of(family) if row.number("forget_rate") is not None]
    if not rows:
        return None
    top = math.log1p(1000 * max(forget_interval(row)[1] for row in rows))

    def place(rate: float) -> float:
        return round(math.log1p(1000 * rate) / top, 4) if top else 0.0

    def make_dot(row: AuditRow) -> Dot:
        rate, (low, high) = row.require("forget_rate"), forget_interval(row)
        return Dot(
            name=run.row_name(row),
            text=format_per_thousand(rate),
            low=place(low),
            middle=place(rate),
            high=place(high),
            is_reference=row.is_reference,
            is_over=row.over_forgets,
        )

    retrained = run.row(family, "retrained")
    rate = None if retrained is None else retrained.number("forget_rate")
    ticks = [(f"{t:,}", place(t / 1000)) for t in (0, 1, 3, 10, 30, 100, 300, 1000)]
    return Rates(
        [make_dot(row) for row in rows],
        [t for t in ticks if t[1] <= 1],
        None if rate is None else place(rate),
    )
