"""Tables of audits for the terminal, and their means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unflow.evidence.condition_attacks import CONDITION_ATTACKS
from unflow.evidence.measures import TERMINAL, Measure
from unflow.evidence.row import AuditRow, find_row, read_rows, sort_rows
from unflow.evidence.score_attacks import SCORE_ATTACKS
from unflow.ground.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

Columns = dict[str, tuple[str, float, int]]
"""Column key -> title, factor, decimals."""


def print_audit(audit: dict[str, Any]) -> None:
    """Print a table per family with its measured columns and floor, the differences, and the notes."""
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 140)
    rows = read_rows(audit["rows"])
    for family, floor in audit["floor"].items():
        own = sort_rows(rows, family)
        columns = [each for each in TERMINAL if any(row.number(each.key) is not None for row in own)]
        table = _new_table(f"{family}: forget {audit['request']['words']}", columns)
        for row in own:
            table.add_row(row.method, *(measure.write(row.number(measure.key)) for measure in columns))
        table.add_section()
        table.add_row("floor", *(measure.write(floor.get(measure.key)) for measure in columns))
        console.print(table)
    print_answers(audit, rows)
    print_condition_attacks(audit)
    print_score_attacks(audit)
    for line in format_differences(audit):
        console.print(line, highlight=False)
    for note in audit["notes"]:
        console.print(f"note: {note}", highlight=False)


MOST_CONDITIONS = 20
"""Conditions in the terminal's table of answers."""


def print_answers(audit: Mapping[str, Any], rows: Sequence[AuditRow]) -> None:
    """Print, for conditional models, a table of what each condition draws before and after."""
    from rich.console import Console
    from rich.table import Table

    answered = {row.method: row.asked for row in rows if row.asked is not None}
    if not answered:
        return
    console = Console(width=None if Console().is_terminal else 140)
    for method in (row.method for row in rows if not row.is_reference and row.asked is not None):
        shown = ["original", method, *(name for name in ("target", "retrained") if name in answered)]
        table = Table(
            title=f"asked for each label, {audit['questions']['n']} samples each: {' | '.join(shown)}",
            title_justify="left",
        )
        table.add_column("label", no_wrap=True)
        for title in ("own class, %", "forgotten, %", "FD to its target", "FD to its real"):
            table.add_column(title, justify="right")
        for name, cells in list_answers(audit, [answered[each] for each in shown], MOST_CONDITIONS):
            table.add_row(name, *cells)
        console.print(table)


def print_condition_attacks(audit: Mapping[str, Any]) -> None:
    """Print, for conditional models, what the attacks over the condition reach, or why they cannot."""
    from rich.console import Console
    from rich.table import Table

    from unflow.evidence.report.attacked import list_condition_attacks, list_obstacles

    lines = list_condition_attacks(audit.get("attacks") or {})
    if not lines:
        return
    console = Console(width=None if Console().is_terminal else 140)
    table = Table(title="attacks over the condition: forgotten, %, by the second judge", title_justify="left")
    table.add_column("model", no_wrap=True)
    for title in ("asked for it", "free condition", "free guidance", "two labels mixed"):
        table.add_column(title, justify="right")
    for name, cells in lines:
        table.add_row(name, *cells)
    console.print(table)
    for words in list_obstacles(audit["attacks"], CONDITION_ATTACKS):
        console.print(words, highlight=False)


def print_score_attacks(audit: Mapping[str, Any]) -> None:
    """Print the AUCs of membership inference and the linear probe, or why there are none."""
    from rich.console import Console
    from rich.table import Table

    from unflow.evidence.report.attacked import list_obstacles, list_score_attacks, list_score_headings

    attacks = audit.get("attacks") or {}
    lines = list_score_attacks(attacks)
    if not lines:
        return
    console = Console(width=None if Console().is_terminal else 140)
    table = Table(
        title="what the weights tell: AUC (* more than the retrained model's)", title_justify="left"
    )
    table.add_column("model", no_wrap=True)
    for title in list_score_headings(attacks):
        table.add_column(title, justify="right")
    for name, cells in lines:
        table.add_row(name, *cells)
    console.print(table)
    for words in list_obstacles(attacks, SCORE_ATTACKS):
        console.print(words, highlight=False)


def list_answers(
    audit: Mapping[str, Any], asked: Sequence[Mapping[str, Any]], most: int
) -> list[tuple[str, list[str]]]:
    """Return name and cells of each condition and guidance, with the numbers of several rows in a cell.

    Args:
        audit: with the questions and the class names.
        asked: the records of the rows, "original" first and the judged row second.
        most: conditions, at most: the forgotten ones, their neighbours, and those least of their own class.
    """
    questions, forget = audit["questions"], audit["request"]["forget"]
    by_label = [{each["label"]: each for each in record["conditions"]} for record in asked]
    first = [*forget, *questions["neighbours"]]
    known = [record["label"] for record in asked[0]["conditions"]]
    others = [k for k in known if k not in first and k != "null"]
    if len(known) > most:
        others = sorted(others, key=lambda k: by_label[1][k]["own"])[: max(most - len(first), 0)]
    chosen = [k for k in known if k in first or k in others or k == "null"]
    lines = []
    for k in chosen:
        cells = [
            _join_numbers([record[k].get(name) for record in by_label], scale)
            for name, scale in (("own", 100), ("forgotten", 100), ("fd_target", 1), ("fd_real", 1))
        ]
        lines.append((_name_condition(audit, k), cells))
    names = " or ".join(str(audit["class_names"][k]) for k in forget)
    for g in asked[0].get("guidance") or {}:
        shares = [(record.get("guidance") or {}).get(g) for record in asked]
        lines.append((f"{names}, guidance {g}", [_join_numbers([], 1), _join_numbers(shares, 100), "", ""]))
    return lines


def _name_condition(audit: Mapping[str, Any], label: int | str) -> str:
    if label == "null":
        return "null"
    tag = "forgotten" if label in audit["request"]["forget"] else ""
    tag = "neighbour" if label in audit["questions"]["neighbours"] else tag
    return str(audit["class_names"][int(label)]) + (f" ({tag})" if tag else "")


def _join_numbers(values: Sequence[float | None], scale: float) -> str:
    if all(value is None for value in values):
        return "–"
    decimals = 1 if scale == 100 else 2
    return " | ".join("–" if value is None else f"{scale * value:.{decimals}f}" for value in values)


HOLDS = {True: "yes", False: "NO", None: "?"}


def format_guards(audit: Mapping[str, Any]) -> list[str]:
    """Return a line for each of the seven checks of an audit."""
    found = audit["guards"]
    return [
        "Can the numbers be trusted?",
        *(f"{HOLDS[g['holds']]:>4}  {g['name']}. {g['words']}" for g in found),
    ]


def format_differences(audit: Mapping[str, Any]) -> list[str]:
    """Return a line per method: its forget rate minus the retrained model's, else minus the target's."""
    shares = [d for d in audit["differences"] if d["measure"] == "forget_rate"]
    found = {(d["family"], d["method"], d["reference"]): d for d in shares}
    lines = []
    for family, method in dict.fromkeys((d["family"], d["method"]) for d in shares):
        d = found.get((family, method, "retrained")) or found.get((family, method, "target"))
        if d is not None:
            lines.append(f"{family} {method} - {d['reference']}: {_format_difference(d)}")
    return lines


def _format_difference(found: dict[str, Any]) -> str:
    low, high = (100 * end for end in found["interval"])
    text = f"forgotten left {100 * found['difference']:+.2f} points [{low:+.2f}, {high:+.2f}]"
    if found["resolved"]:
        return text
    needed = found["n_to_resolve"]
    return f"{text}: not resolved" + (f"; {needed:,} samples per row would resolve it" if needed else "")


def summarise(audits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one record per family and method: mean and sd over seeds of every column of the terminal.

    Mean and sd of a number that some seed did not measure are None.
    """
    runs = [read_rows(audit["rows"]) for audit in audits]
    names = {measure.key: measure.key for measure in TERMINAL}
    names["retrain_seconds_5pct"] = "cost.retrain_seconds_5pct"
    records = []
    for family in audits[0]["floor"]:
        for row in sort_rows(runs[0], family):
            found = [_require_row(rows, family, row.method) for rows in runs]
            record = {"family": family, "method": row.method, "seeds": [each.seed for each in found]}
            for key, name in names.items():
                record |= mean_sd(key, [each.number(name) for each in found])
            records.append(record)
        record = {"family": family, "method": "floor", "seeds": records[0]["seeds"]}
        for measure in TERMINAL:
            record |= mean_sd(measure.key, [audit["floor"][family].get(measure.key) for audit in audits])
        records.append(record)
    return records


def _require_row(rows: Sequence[AuditRow], family: str, method: str) -> AuditRow:
    found = find_row(rows, family, method)
    if found is None:
        raise InputError(
            f"got audits of which one has no row {family}-{method}; expected the same rows in all"
        )
    return found


def mean_sd(key: str, values: Sequence[float | None]) -> dict[str, Any]:
    """Return the mean, sd and list of values under a key.

    Mean and sd are None if a value is missing; the sd also for a single value.
    """
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) != len(values):
        return {key: None, f"{key}_sd": None, f"{key}_values": list(values)}
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {key: statistics.mean(numbers), f"{key}_sd": sd, f"{key}_values": numbers}


def print_mean_table(records: Sequence[dict[str, Any]]) -> None:
    """Print means with standard deviations, a table per family."""
    from rich.console import Console

    console = Console(width=None if Console().is_terminal else 180)
    for family in dict.fromkeys(record["family"] for record in records):
        own = [record for record in records if record["family"] == family]
        table = _new_table(f"{family}: mean ± sd over seeds {own[0]['seeds']}", TERMINAL)
        for record in own:
            table.add_row(record["method"], *_format_means(record))
        console.print(table)


def format_mean_table(records: Sequence[dict[str, Any]]) -> str:
    """Return means with standard deviations as Markdown, a table per family."""
    parts = []
    for family in dict.fromkeys(record["family"] for record in records):
        own = [record for record in records if record["family"] == family]
        lines = [[f"`{record['method']}`", *_format_means(record)] for record in own]
        head = [f"{family}, seeds {own[0]['seeds']}", *(measure.title for measure in TERMINAL)]
        parts.append(format_pipe_table(head, lines))
    return "\n".join(parts)


def _format_means(record: Mapping[str, Any]) -> list[str]:
    return [measure.write(record.get(measure.key), record.get(f"{measure.key}_sd")) for measure in TERMINAL]


def _new_table(title: str, columns: Sequence[Measure]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True)
    for measure in columns:
        table.add_column(measure.title, justify="right")
    return table


def list_titles(columns: Columns) -> list[str]:
    """Return the titles of columns."""
    return [title for title, _, _ in columns.values()]


def format_cell(record: dict[str, Any], key: str, columns: Columns) -> str:
    """Return "mean ± sd" of a record's key, its value where there is no sd, or a dash."""
    _, factor, decimals = columns[key]
    value, sd = record.get(key), record.get(f"{key}_sd")
    if value is None:
        return "–"
    spread = "" if sd is None else f" ± {factor * sd:.{decimals}f}"
    return f"{factor * value:.{decimals}f}{spread}"


def format_pipe_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, first column left, the others right."""
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
