"""Notes of an audit: findings that should make its reader suspicious."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unflow.evidence.row import AuditRow, find_reference


def find_notes(rows: Sequence[AuditRow], *judges: Mapping[str, Any]) -> list[str]:
    """Return the notes on an audit's rows and judges.

    Args:
        rows: with their verdicts.
        judges: the records of the judges.
    """
    notes = [
        "The judge is not independent of the guide: its forget rates prove little."
        for judge in judges
        if judge["independent_of_guide"] is False
    ]
    for row in rows:
        if not row.is_reference:
            found = (_note_over_forgetting(row, rows), _note_disagreement(row, rows), _note_original(row))
            notes += [f"{row.family} {row.method} {words}" for words in found if words]
    return notes


def _note_over_forgetting(row: AuditRow, rows: Sequence[AuditRow]) -> str | None:
    retrained = find_reference(rows, row.family)
    if not row.over_forgets or retrained is None:
        return None
    ours, theirs = row.measures["forget_rate"], retrained.measures["forget_rate"]
    return (
        f"leaves less of the forgotten classes ({ours:.2%}) than retraining does ({theirs:.2%}): "
        "over-forgetting, not a better result."
    )


def _note_disagreement(row: AuditRow, rows: Sequence[AuditRow]) -> str | None:
    beside = find_reference(rows, row.family)
    if beside is None:
        return None
    disagree = row.number("judges_disagree")
    ours, theirs = row.number("forget_rate"), beside.number("forget_rate")
    if disagree is None or ours is None or theirs is None or disagree <= abs(ours - theirs):
        return None
    return (
        f"is judged differently by the two judges in {disagree:.2%} of its samples, more than the "
        f"{abs(ours - theirs):.2%} between it and {beside.method}: that difference is not resolved."
    )


def _note_original(row: AuditRow) -> str | None:
    return (
        "holds the original inside: suppression that can be taken off." if row.original_recoverable else None
    )
