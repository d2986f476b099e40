"""The page's tables: rows of the audit, who moved where, cost and origin, as text to print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.report.read import Row, Run
from unflow.evidence.report.ribbons import draw_ribbons
from unflow.evidence.report.summary import half_width, label, tags
from unflow.evidence.report.words import ABOUT, COSTS, METRICS, MISSING, Metric, method_name, number

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_CLASSES = 20


@dataclass(frozen=True)
class Line:
    """One table row: a name with its explanation and tags, and its cells."""

    name: str
    about: str
    tags: Sequence[str]
    cells: Sequence[str]


@dataclass(frozen=True)
class Table:
    """References (and the floor) apart from methods."""

    references: Sequence[Line]
    methods: Sequence[Line]
    caption: str = ""


def audit_table(run: Run, family: str) -> Table:
    """Return a family's rows of the audit, the floor first."""
    rows = run.rows_of(family)
    floor = (run.audit.get("floor") or {}).get(family) or {}
    lines = {id(row): _line(run, row, [_audit_cell(m, row) for m in METRICS]) for row in rows}
    return Table(
        references=[
            Line("floor", ABOUT["floor"], [], [m.text(Row(floor).number(m.key)) for m in METRICS]),
            *(lines[id(row)] for row in rows if row.is_reference),
        ],
        methods=[lines[id(row)] for row in rows if not row.is_reference],
        caption=_caption(rows),
    )


@dataclass(frozen=True)
class Resolved:
    """Differences from the references: a line per method, a cell per reference and measure."""

    headings: Sequence[str]
    lines: Sequence[Line]


NOT_RESOLVED = "not resolved"


def resolved_table(run: Run, family: str) -> Resolved | None:
    """Return which differences of a family are more than noise; None where the audit does not say."""
    own = [d for d in run.audit.get("differences") or [] if d["family"] == family]
    if not own:
        return None
    columns = list(dict.fromkeys((d["measure"], d["reference"]) for d in own))
    cells = {(d["method"], d["measure"], d["reference"]): _resolved(d) for d in own}
    rows = [row for row in run.rows_of(family) if not row.is_reference]
    return Resolved(
        [f"{_heading(measure)} - {method_name(reference)}" for measure, reference in columns],
        [_line(run, row, [cells.get((row.method, *column), MISSING) for column in columns]) for row in rows],
    )


def _heading(measure: str) -> str:
    return "points left" if measure == "forget_rate" else next(m.heading for m in METRICS if m.key == measure)


def _resolved(difference: Mapping[str, Any]) -> str:
    if not difference["resolved"]:
        return NOT_RESOLVED
    scale = 100 if difference["measure"] == "forget_rate" else 1
    value, low, high = (number(scale * v, 2) for v in (difference["difference"], *difference["interval"]))
    return f"{value} [{low}, {high}]"


def _line(run: Run, row: Row, cells: Sequence[str]) -> Line:
    return Line(label(run, row), ABOUT.get(row.method, ""), tags(run, row), cells)


def _audit_cell(metric: Metric, row: Row) -> str:
    text, half = metric.text(row.number(metric.key)), half_width(row)
    is_rate = metric.key == "forget_rate" and half is not None
    return f"{text} ± {metric.text(half)}" if is_rate else text


def _caption(rows: Sequence[Row]) -> str:
    parts = []
    for name, words in (("n", "samples a row"), ("extractor", "features"), ("seed", "seed")):
        values = sorted({str(v) for row in rows if (v := row.values.get(name)) is not None})
        parts.append(f"{words}: {', '.join(values) or 'not recorded'}")
    return "; ".join(parts)


def cost_table(run: Run, family: str) -> Table:
    """Return a family's costs; the last two cells are shares of the time that retraining takes."""
    retrained = run.row(family, "retrained")
    lines: dict[bool, list[Line]] = {True: [], False: []}
    for row in run.rows_of(family):
        whole = None if retrained is None else retrained.number("cost.train_seconds")
        source = retrained or row
        early = source.number("cost.retrain_seconds_5pct")
        if early is None:
            early = row.number("cost.retrain_seconds_5pct")
        cells = [metric.text(row.number(metric.key)) for metric in COSTS]
        ratios = [_ratio(row.number("cost.unlearn_seconds"), t) for t in (whole, early)]
        lines[row.is_reference].append(_line(run, row, [*cells, *ratios]))
    return Table(lines[True], lines[False])


def _ratio(seconds: float | None, retraining: float | None) -> str:
    return MISSING if seconds is None or not retraining else number(100 * seconds / retraining, 1)


@dataclass(frozen=True)
class Cell:
    """A count and its shade: the share of its line, 0 to 1."""

    text: str
    share: float


@dataclass(frozen=True)
class Moves:
    """Class before -> class after for the same latents, and what it says in words."""

    name: str
    classes: Sequence[str]
    lines: Sequence[tuple[str, bool, Sequence[Cell]]]
    words: str

    @property
    def is_compact(self) -> bool:
        """Whether the class names are short enough for columns of one width."""
        return max(map(len, self.classes)) <= 3


def moves(run: Run, row: Row) -> Moves | None:
    """Return a row's transition matrix; None where there is none, and for references.

    A model trained anew maps latents in its own way: its matrix would say nothing.
    """
    matrix = row.counts("transition")
    if matrix is None or row.is_reference or matrix.ndim != 2 or not matrix.sum():
        return None
    names = [run.class_name(k) for k in range(len(matrix))]
    shown = range(len(matrix)) if len(matrix) <= MAX_CLASSES else run.forget
    lines = []
    for k in shown:
        total = matrix[k].sum()
        cells = [Cell(number(c, 0), round(c / total, 3) if total else 0.0) for c in matrix[k]]
        lines.append((names[k], k in run.forget, cells))
    return Moves(label(run, row), names, lines, _moves_in_words(run, matrix))


def ribbons_of(run: Run, row: Row) -> Markup:
    """Return a row's transition matrix as ribbons; of many classes, the forgotten ones' alone."""
    matrix = row.counts("transition")
    assert matrix is not None
    names = [run.class_name(k) for k in range(len(matrix))]
    shown = np.arange(len(matrix)) if len(matrix) <= MAX_CLASSES else _most(matrix, run.forget)
    forget = [i for i, k in enumerate(shown) if k in run.forget]
    words = f"Class before and after of {label(run, row)}. {_moves_in_words(run, matrix)}"
    return draw_ribbons(matrix[np.ix_(shown, shown)], [names[k] for k in shown], forget, words)


def _most(matrix: NDArray[np.float64], forget: Sequence[int]) -> NDArray[np.int64]:
    """Return the forgotten classes and those that took most of them."""
    took = matrix[list(forget)].sum(0)
    took[list(forget)] = np.inf
    return np.sort(np.argsort(-took, kind="stable")[:MAX_CLASSES])


def _moves_in_words(run: Run, matrix: NDArray[np.float64]) -> str:
    is_forgotten = np.isin(np.arange(len(matrix)), run.forget)
    retained = matrix[~is_forgotten].sum()
    parts = []
    if retained:
        kept = 100 * np.trace(matrix[~is_forgotten][:, ~is_forgotten]) / retained
        parts.append(
            f"Of {number(retained, 0)} latents that drew a retained class, {number(kept, 1)} % "
            "draw the same class"
        )
    if (drew := matrix[is_forgotten].sum()) > 0:
        still = matrix[is_forgotten][:, is_forgotten].sum()
        parts.append(
            f"of {number(drew, 0)} that drew {run.forgotten}, {number(still, 0)} "
            f"still {'does' if still == 1 else 'do'}"
        )
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


@dataclass(frozen=True)
class Origin:
    """Where a model on disk comes from."""

    folder: str
    method: str
    seed: str
    seconds: float | None
    share: float
    parent: str
    sha256: str
    data_used: str
    settings: str


def origins(run: Run) -> list[Origin]:
    """Return one record a bundle, with its time as a share of the longest."""
    seconds = {name: Row(record).number("seconds") for name, record in run.lineage.items()}
    longest = max((s for s in seconds.values() if s is not None), default=0.0)
    return [
        Origin(
            folder=name,
            method=text(record.get("method")),
            seed=text(record.get("seed")),
            seconds=seconds[name],
            share=(seconds[name] or 0.0) / longest if longest else 0.0,
            parent=short_hash(record.get("parent")),
            sha256=short_hash(record.get("sha256")),
            data_used=text(record.get("data_used")),
            settings=json.dumps(public(record.get("settings") or {}), indent=1, default=str),
        )
        for name, record in run.lineage.items()
    ]


def split_parts(run: Run) -> list[tuple[str, str, str]]:
    """Return name, size and short hash of the parts of the data."""
    parts = run.split.get("parts") or {}
    return [
        (str(name), text(part.get("n")), short_hash(part.get("sha256")))
        for name, part in parts.items()
        if isinstance(part, Mapping)
    ]


def command(run: Run) -> str:
    """Return the command line that made the run, from its configuration; empty if unknown."""
    options = {k: v for k, v in public(run.config).items() if v is not None and v is not False}
    if "command" not in options:
        return ""
    words = ["unflow", str(options.pop("command"))]
    for name, value in options.items():
        told = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [f"--{name}", shlex.quote(told.lower() if value is True else told)]
    return " ".join([*words, "--out", shlex.quote(run.name)])


def short_hash(value: Any) -> str:
    """Return the first 12 digits of a hash."""
    return MISSING if value is None else str(value)[:12]


def text(value: Any) -> str:
    """Return any plain value as words; null and nothing are –."""
    if value is None or value in ([], "", {}):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(public(value))


def public(value: Any) -> Any:
    """Return plain data in which an absolute path is only its last part: a page travels."""
    if isinstance(value, Mapping):
        return {str(k): public(v) for k, v in value.items()}
    if isinstance(value, list):
        return [public(v) for v in value]
    if not isinstance(value, str):
        return value
    folder = value.rpartition(":")[2]  # classifier:DIR, mnist:DIR
    return value.removesuffix(folder) + PurePath(folder).name if PurePath(folder).is_absolute() else value
