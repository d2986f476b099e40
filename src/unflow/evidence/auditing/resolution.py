"""The number of samples that an audit needs, and the differences that exceed noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from unflow.evidence import metrics
from unflow.evidence.auditing.evidence import Judge
from unflow.evidence.row import AuditRow
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel

PILOT = 1000
"""Samples from which the forget rate is estimated before the audit."""
FEWEST, MOST = 2000, 20_000
"""Bounds on the samples of a row: distances need some, and more take too long."""
DISTANCES = ("fid_retain", "fid_target")


def samples_needed(
    model: GenerativeModel, judge: Judge, forget: Sequence[int], difference: float, seed: int
) -> int:
    """Return the number of samples per row that resolves a difference of two forget rates.

    A pilot estimates the rate, and the upper end of its interval is used, since the estimate may be low.

    Args:
        model: after unlearning.
        judge: of the audit.
        forget: forgotten classes.
        difference: between two forget rates near the model's, in (0, 1); 0.005 is half a percentage point.
        seed: of the pilot.

    Returns:
        ``metrics.samples_to_resolve`` of that rate, between ``FEWEST`` and ``MOST``.
    """
    x = model.push_batches(model.prior(PILOT, stream(seed, Stream.PILOT)))
    found = metrics.forget_rate(judge.probabilities(x), forget)
    rate = min(
        metrics.share_interval(round(found * PILOT), PILOT).high, 0.5
    )  # a share of one half has the widest interval
    return min(max(metrics.samples_to_resolve(difference, rate), FEWEST), MOST)


def differences(rows: Sequence[AuditRow]) -> list[dict[str, Any]]:
    """Return the differences between every method and the references of its family.

    Args:
        rows: of an audit with intervals.

    Returns:
        One record per method, reference and measure: "difference" (method minus reference), its 95 %
        "interval", whether the interval excludes 0 ("resolved"), and for an unresolved share the samples per
        row that would resolve it ("n_to_resolve"; None for equal shares and for distances).
    """
    found = []
    for row in rows:
        for beside in rows if not row.is_reference else ():
            if beside.family == row.family and beside.is_reference:
                found += [_compare_shares(row, beside), *_compare_distances(row, beside)]
    return found


def _compare_shares(row: AuditRow, beside: AuditRow) -> dict[str, Any]:
    (ours, n), (theirs, m) = _count_forgotten(row), _count_forgotten(beside)
    interval = metrics.difference_interval(ours, n, theirs, m)
    difference = ours / n - theirs / m
    record = _record(row, beside, "forget_rate", difference, list(interval))
    if not record["resolved"] and difference != 0:
        record["n_to_resolve"] = metrics.samples_to_resolve(abs(difference), (ours + theirs) / (n + m))
    return record


def _count_forgotten(row: AuditRow) -> tuple[int, int]:
    n = int(row.require("n"))
    return round(row.require("forget_rate") * n), n


def _compare_distances(row: AuditRow, beside: AuditRow) -> list[dict[str, Any]]:
    found = []
    for name in DISTANCES:
        ours, theirs = row.interval(name), beside.interval(name)
        if ours is not None and theirs is not None:
            difference = row.require(name) - beside.require(name)
            half = math.hypot((ours[1] - ours[0]) / 2, (theirs[1] - theirs[0]) / 2)  # independent bootstraps
            found.append(_record(row, beside, name, difference, [difference - half, difference + half]))
    return found


def _record(
    row: AuditRow, beside: AuditRow, measure: str, difference: float, interval: list[float]
) -> dict[str, Any]:
    return {
        "family": row.family,
        "method": row.method,
        "reference": beside.method,
        "measure": measure,
        "difference": difference,
        "interval": interval,
        "resolved": not interval[0] <= 0 <= interval[1],
        "n_to_resolve": None,
    }
