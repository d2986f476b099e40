"""Audits as tables in the terminal, and their means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Columns = dict[str, tuple[str, float, int]]
"""Column key -> title, factor, decimals."""

COLUMNS: Columns = {
    "forget_rate": ("forgotten left %", 100, 2),
    "pul": ("PUL", 1, 1),
    "fid_target": ("FD target", 1, 2),
    "fid_retain": ("FD retain", 1, 2),
    "c2st_target": ("c2st target", 1, 3),
    "coverage": ("coverage", 1, 3),
    "off_data": ("off data %", 100, 1),
    "retained_share_tv": ("share TV", 1, 3),
    "stayed_share": ("stayed %", 100, 1),
    "seconds": ("seconds", 1, 1),
}
"""FD: Fréchet distance in judge features."""

ORDER = ("original", "target", "retrained")
"""Reference rows come first."""


def seconds_of(row: dict[str, Any]) -> float | None:
    """Return what a row took: unlearning, or training for original and retrained."""
    cost = row["cost"]
    value = cost["unlearn_seconds"] if cost["unlearn_seconds"] is not None else cost["train_seconds"]
    return None if value is None else float(value)


def sorted_rows(rows: Sequence[dict[str, Any]], family: str) -> list[dict[str, Any]]:
    """Return a family's rows, references first."""
    own = [row for row in rows if row["family"] == family]
    return sorted(own, key=lambda r: ORDER.index(r["method"]) if r["method"] in ORDER else len(ORDER))


def print_audit(audit: dict[str, Any]) -> None:
    """Print one table per family, with the floor beneath, and the notes."""
    console = Console(width=None if Console().is_terminal else 140)
    for family, floor in audit["floor"].items():
        table = _new_table(f"{family}: forget {audit['request']['words']}")
        for row in sorted_rows(audit["rows"], family):
            values = row | {"seconds": seconds_of(row)}
            table.add_row(row["method"], *(cell(values, key, COLUMNS) for key in COLUMNS))
        table.add_section()
        table.add_row("floor", *(cell(floor, key, COLUMNS) for key in COLUMNS))
        console.print(table)
    for line in difference_lines(audit):
        console.print(line, highlight=False)
    for note in audit["notes"]:
        console.print(f"note: {note}", highlight=False)


HOLDS = {True: "yes", False: "NO", None: "?"}


def guard_lines(audit: dict[str, Any]) -> list[str]:
    """Return a line for each of the seven checks of an audit."""
    found = audit["guards"]
    return [
        "Can the numbers be trusted?",
        *(f"{HOLDS[g['holds']]:>4}  {g['name']}. {g['words']}" for g in found),
    ]


def difference_lines(audit: dict[str, Any]) -> list[str]:
    """Return a line per method: how its forget rate differs from the retrained model's, or the target's."""
    shares = [d for d in audit["differences"] if d["measure"] == "forget_rate"]
    found = {(d["family"], d["method"], d["reference"]): d for d in shares}
    lines = []
    for family, method in dict.fromkeys((d["family"], d["method"]) for d in shares):
        d = found.get((family, method, "retrained")) or found.get((family, method, "target"))
        if d is not None:
            lines.append(f"{family} {method} - {d['reference']}: {_difference(d)}")
    return lines


def _difference(found: dict[str, Any]) -> str:
    low, high = (100 * end for end in found["interval"])
    text = f"forgotten left {100 * found['difference']:+.2f} points [{low:+.2f}, {high:+.2f}]"
    if found["resolved"]:
        return text
    needed = found["n_to_resolve"]
    return f"{text}: not resolved" + (f"; {needed:,} samples a row would tell" if needed else "")


def summarise(audits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one record per family and method: mean and sd over seeds of every table column.

    A value that was not measured in every seed is null.
    """
    records = []
    for family in audits[0]["floor"]:
        for method in [row["method"] for row in sorted_rows(audits[0]["rows"], family)]:
            rows = [_find(audit, family, method) for audit in audits]
            record: dict[str, Any] = {
                "family": family,
                "method": method,
                "seeds": [row["seed"] for row in rows],
            }
            columns = [[(r | {"seconds": seconds_of(r)}).get(key) for r in rows] for key in COLUMNS]
            five = [row["cost"]["retrain_seconds_5pct"] for row in rows]
            for key, values in zip([*COLUMNS, "retrain_seconds_5pct"], [*columns, five], strict=True):
                record |= mean_sd(key, values)
            records.append(record)
        floors = [audit["floor"][family] for audit in audits]
        record = {"family": family, "method": "floor", "seeds": records[0]["seeds"]}
        for key in COLUMNS:
            record |= mean_sd(key, [floor.get(key) for floor in floors])
        records.append(record)
    return records


def _find(audit: dict[str, Any], family: str, method: str) -> dict[str, Any]:
    return next(r for r in audit["rows"] if (r["family"], r["method"]) == (family, method))


def mean_sd(key: str, values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean, sd and values under a key; None where one was not measured (sd: also for one value)."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) != len(values):
        return {key: None, f"{key}_sd": None, f"{key}_values": list(values)}
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {key: statistics.mean(numbers), f"{key}_sd": sd, f"{key}_values": numbers}


def print_mean_table(records: Sequence[dict[str, Any]]) -> None:
    """Print means with standard deviations, one table per family."""
    console = Console(width=None if Console().is_terminal else 180)
    for family in dict.fromkeys(record["family"] for record in records):
        own = [record for record in records if record["family"] == family]
        table = _new_table(f"{family}: mean ± sd over seeds {own[0]['seeds']}")
        for record in own:
            table.add_row(record["method"], *(cell(record, key, COLUMNS) for key in COLUMNS))
        console.print(table)


def mean_table_markdown(records: Sequence[dict[str, Any]]) -> str:
    """Return means with standard deviations as Markdown, one table per family."""
    parts = []
    for family in dict.fromkeys(record["family"] for record in records):
        own = [record for record in records if record["family"] == family]
        lines = [[f"`{r['method']}`", *(cell(r, key, COLUMNS) for key in COLUMNS)] for r in own]
        parts.append(pipe_table([f"{family}, seeds {own[0]['seeds']}", *titles(COLUMNS)], lines))
    return "\n".join(parts)


def _new_table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for name in titles(COLUMNS):
        table.add_column(name, justify="right")
    return table


def titles(columns: Columns) -> list[str]:
    """Return the titles of columns."""
    return [title for title, _, _ in columns.values()]


def cell(record: dict[str, Any], key: str, columns: Columns) -> str:
    """Return "mean ± sd" of a record's key, its value where there is no sd, or a dash."""
    _, factor, decimals = columns[key]
    value, sd = record.get(key), record.get(f"{key}_sd")
    if value is None:
        return "–"
    spread = "" if sd is None else f" ± {factor * sd:.{decimals}f}"
    return f"{factor * value:.{decimals}f}{spread}"


def pipe_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, first column left, the others right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
