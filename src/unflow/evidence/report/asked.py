"""What a conditional model draws when it is asked: a table, and a grid with a row for each label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unflow.evidence.report.gallery import join_images
from unflow.evidence.report.pictures import encode_image, lay_out_channels
from unflow.evidence.report.read import Answers, Run
from unflow.evidence.report.terminal import list_answers
from unflow.evidence.report.words import format_number
from unflow.evidence.row import AuditRow

MOST = 40
"""Conditions on a page."""


@dataclass(frozen=True)
class Drawn:
    """What one row draws for one condition.

    Attributes:
        src: its first samples side by side, as data URI; None for samples that are not images.
        words: the shares of its own class and of the forgotten ones.
    """

    src: str | None
    words: str


@dataclass(frozen=True)
class Asked:
    """The answers of one row beside those of the original.

    Attributes:
        name: of the row.
        columns: names of the rows whose numbers stand in each cell.
        lines: name and cells of each condition and guidance.
        grid: name of a condition, whether it is forgotten, what the original draws and what the row draws.
    """

    name: str
    columns: str
    lines: list[tuple[str, list[str]]]
    grid: list[tuple[str, bool, Drawn, Drawn]]

    @property
    def has_pictures(self) -> bool:
        """Whether the grid has images."""
        return any(before.src and after.src for _, _, before, after in self.grid)


def list_asked(run: Run, family: str) -> list[Asked]:
    """Return the answers of every row of a family that was asked; empty for models without conditions."""
    rows = {row.method: row for row in run.rows_of(family) if row.asked is not None}
    if "original" not in rows or not run.audit.get("questions"):
        return []
    return [_describe_row(run, rows, row) for row in rows.values() if not row.is_reference]


def find_obstacle(run: Run) -> str | None:
    """Return why a conditional model was not asked; None where it was, and for other models."""
    found = (run.audit.get("questions") or {}).get("obstacle")
    return None if found is None else str(found)


def _describe_row(run: Run, rows: dict[str, AuditRow], row: AuditRow) -> Asked:
    names = ["original", row.method, *(name for name in ("target", "retrained") if name in rows)]
    shown = [dict(rows[name].asked or {}) for name in names]
    return Asked(
        name=run.row_name(row),
        columns=" | ".join(run.row_name(rows[name]) for name in names),
        lines=list_answers(run.audit, shown, MOST),
        grid=_build_grid(run, rows["original"], row),
    )


def _build_grid(run: Run, original: AuditRow, row: AuditRow) -> list[tuple[str, bool, Drawn, Drawn]]:
    before, after = ({each["label"]: each for each in (r.asked or {})["conditions"]} for r in (original, row))
    pictures = [run.answers.get(each.key) for each in (original, row)]
    return [
        (
            "no label" if k == "null" else run.class_name(k),
            k in run.forget,
            _draw(run, before[k], pictures[0]),
            _draw(run, after[k], pictures[1]),
        )
        for k in list(before)[:MOST]
        if k in after
    ]


def _draw(run: Run, record: dict[str, Any], answers: Answers | None) -> Drawn:
    label, shares = record["label"], []
    if record.get("own") is not None:
        shares.append(f"{format_number(100 * record['own'], 1)} % own")
    if label not in run.forget:
        shares.append(f"{format_number(100 * record['forgotten'], 1)} % {run.forgotten}")
    return Drawn(_encode(answers, -1 if label == "null" else int(label)), ", ".join(shares))


def _encode(answers: Answers | None, label: int) -> str | None:
    if answers is None or not answers.is_image:
        return None
    found = answers.x[np.flatnonzero(answers.condition == label)]
    if len(found) == 0:
        return None
    x = lay_out_channels(found)
    return encode_image(join_images(x), len(found) * x.shape[3] // found.shape[3])
