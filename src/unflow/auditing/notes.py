"""What should make a reader of an audit suspicious, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from unflow.auditing.family import REFERENCES


def find_notes(rows: Sequence[dict[str, Any]], judge: dict[str, Any]) -> list[str]:
    """Return warnings in words: what in these rows should make a reader suspicious."""
    notes = []
    if judge["independent_of_guide"] is False:
        notes.append("The judge is not independent of the guide: its forget rates prove little.")
    reference = {r["family"]: r for r in rows if r["method"] == "retrained"}
    for row in rows:
        where = f"{row['family']} {row['method']}"
        if row["method"] in REFERENCES:
            continue
        if row["family"] in reference:
            retrained = reference[row["family"]]["forget_rate"]
            slack = 2 * math.sqrt(max(retrained * (1 - retrained), 1 / row["n"]) / row["n"])
            if row["forget_rate"] < retrained - slack:
                notes.append(
                    f"{where} leaves less of the forgotten classes ({row['forget_rate']:.2%}) than "
                    f"retraining does ({retrained:.2%}): over-forgetting, not a better result."
                )
        if row["original_recoverable"]:
            notes.append(f"{where} holds the original inside: suppression that can be taken off.")
    return notes
