"""What an audit can tell apart: how many samples it needs, and which differences are no more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unflow.evidence import metrics
from unflow.evidence.auditing.certainty import interval_of
from unflow.evidence.auditing.evidence import Judge
from unflow.evidence.auditing.family import REFERENCES
from unflow.ground.streams import Stream, stream
from unflow.models import GenerativeModel

Row = Mapping[str, Any]

PILOT = 1000
"""Samples from which the forget rate is guessed before the audit."""
FEWEST, MOST = 2000, 20_000
"""Samples of a row, whatever is to be resolved: distances need some, and nobody waits for more."""
DISTANCES = ("fid_retain", "fid_target")


def samples_needed(
    model: GenerativeModel, judge: Judge, forget: Sequence[int], difference: float, seed: int
) -> int:
    """Return the samples per row that tell forget rates apart that differ by so much.

    A pilot guesses the rate; the upper end of its interval is taken, since the guess may be low.

    Args:
        model: after unlearning.
        judge: of the audit.
        forget: forgotten classes.
        difference: of two forget rates near the model's, in (0, 1); 0.005 is half a point.
        seed: of the pilot.

    Returns:
        ``metrics.samples_to_resolve`` of that rate, between ``FEWEST`` and ``MOST``.
    """
    x = model.push_batches(model.prior(PILOT, stream(seed, Stream.PILOT)))
    found = metrics.forget_rate(judge.probabilities(x), forget)
    rate = min(
        metrics.share_interval(round(found * PILOT), PILOT).high, 0.5
    )  # more than half: the widest share
    return min(max(metrics.samples_to_resolve(difference, rate), FEWEST), MOST)


def differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return every method's differences from the references of its family.

    Args:
        rows: of an audit with intervals.

    Returns:
        One record per method, reference and measure: "difference" (method minus reference), its 95 %
        "interval", whether that leaves 0 out ("resolved"), and for a share that does not, the samples per row
        that would tell these two apart ("n_to_resolve"; None for equal shares and for distances).
    """
    found = []
    for row in rows:
        if row["method"] in REFERENCES:
            continue
        for beside in rows:
            if beside["family"] == row["family"] and beside["method"] in REFERENCES:
                found += [_share(row, beside), *_distances(row, beside)]
    return found


def _share(row: Row, beside: Row) -> dict[str, Any]:
    (ours, n), (theirs, m) = ((round(each["forget_rate"] * each["n"]), each["n"]) for each in (row, beside))
    interval = metrics.difference_interval(ours, n, theirs, m)
    difference = ours / n - theirs / m
    record = _record(row, beside, "forget_rate", difference, list(interval))
    if not record["resolved"] and difference != 0:
        record["n_to_resolve"] = metrics.samples_to_resolve(abs(difference), (ours + theirs) / (n + m))
    return record


def _distances(row: Row, beside: Row) -> list[dict[str, Any]]:
    found = []
    for name in DISTANCES:
        ours, theirs = interval_of(row, name), interval_of(beside, name)
        if ours is not None and theirs is not None:
            difference = row[name] - beside[name]
            half = math.hypot((ours[1] - ours[0]) / 2, (theirs[1] - theirs[0]) / 2)  # independent bootstraps
            found.append(_record(row, beside, name, difference, [difference - half, difference + half]))
    return found


def _record(row: Row, beside: Row, measure: str, difference: float, interval: list[float]) -> dict[str, Any]:
    return {
        "family": row["family"],
        "method": row["method"],
        "reference": beside["method"],
        "measure": measure,
        "difference": difference,
        "interval": interval,
        "resolved": not interval[0] <= 0 <= interval[1],
        "n_to_resolve": None,
    }
