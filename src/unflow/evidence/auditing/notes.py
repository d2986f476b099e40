"""What should make a reader of an audit suspicious, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unflow.evidence.auditing.family import REFERENCES

Row = dict[str, Any]


def find_notes(rows: Sequence[Row], *judges: dict[str, Any]) -> list[str]:
    """Return warnings in words: what in these rows should make a reader suspicious."""
    notes = [
        "The judge is not independent of the guide: its forget rates prove little."
        for judge in judges
        if judge["independent_of_guide"] is False
    ]
    for row in rows:
        if row["method"] not in REFERENCES:
            where, beside = f"{row['family']} {row['method']}", _reference(rows, row["family"])
            notes += [f"{where} {words}" for words in _about(row, beside) if words]
    return notes


def _reference(rows: Sequence[Row], family: str) -> Row | None:
    """Return the retrained row of a family, else that of the exact target."""
    own = {row["method"]: row for row in rows if row["family"] == family}
    return own.get("retrained") or own.get("target")


def _about(row: Row, beside: Row | None) -> list[str | None]:
    return [
        _over_forgetting(row, beside) if beside is not None and beside["method"] == "retrained" else None,
        _judges_disagree(row, beside) if beside is not None else None,
        "holds the original inside: suppression that can be taken off."
        if row["original_recoverable"]
        else None,
    ]


def over_forgets(row: Mapping[str, Any], retrained: Mapping[str, Any]) -> bool:
    """Return whether a row leaves less than the retrained model, by two standard errors of the latter."""
    rate = retrained["forget_rate"]
    slack = 2 * math.sqrt(max(rate * (1 - rate), 1 / row["n"]) / row["n"])
    return bool(row["forget_rate"] < rate - slack)


def _over_forgetting(row: Row, retrained: Row) -> str | None:
    if not over_forgets(row, retrained):
        return None
    ours, theirs = row["forget_rate"], retrained["forget_rate"]
    return (
        f"leaves less of the forgotten classes ({ours:.2%}) than retraining does ({theirs:.2%}): "
        "over-forgetting, not a better result."
    )


def _judges_disagree(row: Row, beside: Row) -> str | None:
    disagree, effect = row.get("judges_disagree"), abs(row["forget_rate"] - beside["forget_rate"])
    if disagree is None or disagree <= effect:
        return None
    return (
        f"is judged differently by the two judges in {disagree:.2%} of its samples, more than the "
        f"{effect:.2%} between it and {beside['method']}: that difference is not resolved."
    )
