"""The audit's part of a model card: verdict, numbers and notes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unflow.disk import bundle
from unflow.disk.card import TASK, Audited
from unflow.evidence.measures import TERMINAL
from unflow.evidence.report.terminal import format_pipe_table
from unflow.evidence.row import AuditRow, read_rows, sort_rows


def write_card(folder: str | Path, audit: Mapping[str, Any], trust_code: bool = False) -> Path:
    """Write the model card of a bundle again, with the audit's verdict, numbers and notes.

    Args:
        folder: of the bundle.
        audit: the content of audit.json.
        trust_code: as ``bundle.load``.

    Raises:
        InputError: as ``bundle.check_local`` and ``bundle.load``.
    """
    return bundle.write_card(folder, describe_audit(audit), trust_code)


def describe_audit(audit: Mapping[str, Any]) -> Audited:
    """Return what an audit adds to the card of the model in its first row that is no reference."""
    rows = read_rows(audit["rows"])
    row = next(each for each in rows if not each.is_reference)
    sections = ["## Audit", " ".join(audit["verdicts"][row.key]), _table(sort_rows(rows, row.family))]
    notes = "\n".join(f"* {note}" for note in audit["notes"])
    return Audited(_results(row, str(audit["request"]["words"])), [*sections, notes] if notes else sections)


def _results(row: AuditRow, words: str) -> dict[str, Any]:
    values = {measure: row.number(measure.key) for measure in TERMINAL if measure.key != "seconds"}
    return {
        "task": {"type": TASK, "name": f"forget {words}"},
        "dataset": {"type": "held_out", "name": "held-out samples"},
        "metrics": [
            {"type": measure.key, "name": measure.title, "value": measure.scale * value}
            for measure, value in values.items()
            if value is not None
        ],
    }


def _table(rows: list[AuditRow]) -> str:
    lines = [
        [f"`{row.method}`", *(measure.write(row.number(measure.key)) for measure in TERMINAL)] for row in rows
    ]
    return format_pipe_table(["row", *(measure.title for measure in TERMINAL)], lines).rstrip()
