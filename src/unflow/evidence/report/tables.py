"""The tables of the page, with their cells as text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unflow.evidence.measures import COSTS, KNOWN, PAGE, Measure
from unflow.evidence.report.read import Run
from unflow.evidence.report.ribbons import draw_ribbons
from unflow.evidence.report.words import MISSING, describe_row, format_number, row_label
from unflow.evidence.row import AuditRow, numbers_in

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_CLASSES = 20
COST_COLUMNS = tuple(measure for measure in COSTS if measure.key != "cost.retrain_seconds_5pct")
"""The time of the early stop appears as a ratio."""
NOT_RESOLVED = "not resolved"


@dataclass(frozen=True)
class Line:
    """One line of a table: a name with its explanation and tags, and its cells."""

    name: str
    about: str
    tags: Sequence[str]
    cells: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table that separates the references and the floor from the methods."""

    references: Sequence[Line]
    methods: Sequence[Line]
    caption: str = ""


def list_measures(runs: Iterable[Run]) -> tuple[Measure, ...]:
    """Return the columns of the table of runs: without optional measures that no row has."""
    rows = [row for run in runs for family in run.families for row in run.rows_of(family)]
    return tuple(
        measure
        for measure in PAGE
        if not measure.optional or any(row.number(measure.key) is not None for row in rows)
    )


def build_audit_table(run: Run, family: str, measures: Sequence[Measure]) -> Table:
    """Return the measures of a family's rows, with the floor first."""
    rows, floor = run.rows_of(family), run.floor(family)
    floor_cells = [_format_measure(measure, floor.get(measure.key)) for measure in measures]
    return _build_table(
        run,
        [(row, [_audit_cell(measure, row) for measure in measures]) for row in rows],
        [Line("floor", describe_row("floor"), [], floor_cells)],
        _write_caption(rows),
    )


def _build_table(
    run: Run, rows: Sequence[tuple[AuditRow, list[str]]], first: Sequence[Line] = (), caption: str = ""
) -> Table:
    references = [_build_line(run, row, cells) for row, cells in rows if row.is_reference]
    methods = [_build_line(run, row, cells) for row, cells in rows if not row.is_reference]
    return Table([*first, *references], methods, caption)


@dataclass(frozen=True)
class Differences:
    """Differences from the references: a line per method, a cell per measure and reference."""

    headings: Sequence[str]
    lines: Sequence[Line]


def build_difference_table(run: Run, family: str) -> Differences | None:
    """Return the differences of a family's methods from its references; None if the audit has none."""
    own = [d for d in run.audit.get("differences") or [] if d["family"] == family]
    if not own:
        return None
    columns = list(dict.fromkeys((d["measure"], d["reference"]) for d in own))
    cells = {(d["method"], d["measure"], d["reference"]): _format_difference(d) for d in own}
    rows = [row for row in run.rows_of(family) if not row.is_reference]
    return Differences(
        [f"{_heading(measure)} - {row_label(reference)}" for measure, reference in columns],
        [
            _build_line(run, row, [cells.get((row.method, *column), MISSING) for column in columns])
            for row in rows
        ],
    )


def _heading(measure: str) -> str:
    return "points left" if measure == "forget_rate" else KNOWN[measure].heading


def _format_difference(difference: Mapping[str, Any]) -> str:
    if not difference["resolved"]:
        return NOT_RESOLVED
    scale = 100 if difference["measure"] == "forget_rate" else 1
    value, low, high = (
        format_number(scale * v, 2) for v in (difference["difference"], *difference["interval"])
    )
    return f"{value} [{low}, {high}]"


def _build_line(run: Run, row: AuditRow, cells: Sequence[str]) -> Line:
    tags = {"over-forgets": row.over_forgets, "recoverable": row.original_recoverable}
    shown = [] if row.is_reference else [tag for tag, holds in tags.items() if holds]
    return Line(run.row_name(row), describe_row(row.method), shown, cells)


def _audit_cell(measure: Measure, row: AuditRow) -> str:
    cell, half = _format_measure(measure, row.number(measure.key)), row.half_width
    is_rate = measure.key == "forget_rate" and half is not None
    return f"{cell} ± {_format_measure(measure, half)}" if is_rate else cell


def _format_measure(measure: Measure, value: float | None) -> str:
    return format_number(None if value is None else measure.scale * value, measure.decimals)


def _write_caption(rows: Sequence[AuditRow]) -> str:
    parts = []
    for name, heading in (("n", "samples per row"), ("extractor", "features"), ("seed", "seed")):
        values = sorted({str(value) for row in rows if (value := row[name]) is not None})
        parts.append(f"{heading}: {', '.join(values) or 'not recorded'}")
    return "; ".join(parts)


def build_cost_table(run: Run, family: str) -> Table:
    """Return the costs of a family; the last two cells are percentages of the time of retraining."""
    retrained = run.row(family, "retrained")
    rows = []
    for row in run.rows_of(family):
        full = None if retrained is None else retrained.number("cost.train_seconds")
        early = None if retrained is None else retrained.number("cost.retrain_seconds_5pct")
        early = row.number("cost.retrain_seconds_5pct") if early is None else early
        cells = [_format_measure(measure, row.number(measure.key)) for measure in COST_COLUMNS]
        ratios = [_format_ratio(row.number("cost.unlearn_seconds"), seconds) for seconds in (full, early)]
        rows.append((row, [*cells, *ratios]))
    return _build_table(run, rows)


def _format_ratio(seconds: float | None, retraining: float | None) -> str:
    return MISSING if seconds is None or not retraining else format_number(100 * seconds / retraining, 1)


@dataclass(frozen=True)
class Cell:
    """A count, and its share of its line in [0, 1], which sets the shade."""

    text: str
    share: float


@dataclass(frozen=True)
class Transitions:
    """Counts of class before -> class after for the same latents, with a sentence about them.

    Attributes:
        name: the row's name.
        classes: names of all classes.
        lines: name of a class before, whether it is forgotten, and a cell per class after.
        description: the counts in words.
    """

    name: str
    classes: Sequence[str]
    lines: Sequence[tuple[str, bool, Sequence[Cell]]]
    description: str

    @property
    def is_compact(self) -> bool:
        """Whether the class names are short enough for columns of one width."""
        return max(map(len, self.classes)) <= 3


def build_transitions(run: Run, row: AuditRow) -> Transitions | None:
    """Return a row's transition counts; None if it has none, and for references.

    A retrained model maps latents differently, so its transitions are not meaningful.
    """
    matrix = _read_transitions(row)
    if matrix is None or row.is_reference or matrix.ndim != 2 or not matrix.sum():
        return None
    names = [run.class_name(k) for k in range(len(matrix))]
    shown = range(len(matrix)) if len(matrix) <= MAX_CLASSES else run.forget
    lines = []
    for k in shown:
        total = matrix[k].sum()
        cells = [Cell(format_number(c, 0), round(c / total, 3) if total else 0.0) for c in matrix[k]]
        lines.append((names[k], k in run.forget, cells))
    return Transitions(run.row_name(row), names, lines, _describe_transitions(run, matrix))


def _read_transitions(row: AuditRow) -> NDArray[np.float64] | None:
    return None if row.transition is None else np.asarray(row.transition, dtype=np.float64)


def draw_transitions(run: Run, row: AuditRow) -> Markup:
    """Return a row's transition counts as ribbons.

    Of more than ``MAX_CLASSES`` classes, show the forgotten ones and the most frequent destinations of their
    latents.
    """
    matrix = _read_transitions(row)
    assert matrix is not None
    names = [run.class_name(k) for k in range(len(matrix))]
    shown = np.arange(len(matrix)) if len(matrix) <= MAX_CLASSES else _choose_classes(matrix, run.forget)
    forget = [i for i, k in enumerate(shown) if k in run.forget]
    description = f"Class before and after of {run.row_name(row)}. {_describe_transitions(run, matrix)}"
    return draw_ribbons(matrix[np.ix_(shown, shown)], [names[k] for k in shown], forget, description)


def _choose_classes(matrix: NDArray[np.float64], forget: Sequence[int]) -> NDArray[np.int64]:
    received = matrix[list(forget)].sum(0)
    received[list(forget)] = np.inf
    return np.sort(np.argsort(-received, kind="stable")[:MAX_CLASSES])


def _describe_transitions(run: Run, matrix: NDArray[np.float64]) -> str:
    is_forgotten = np.isin(np.arange(len(matrix)), run.forget)
    retained = matrix[~is_forgotten].sum()
    parts = []
    if retained:
        kept = 100 * np.trace(matrix[~is_forgotten][:, ~is_forgotten]) / retained
        parts.append(
            f"Of {format_number(retained, 0)} latents that drew a retained class, {format_number(kept, 1)} % "
            "draw the same class"
        )
    if (drew := matrix[is_forgotten].sum()) > 0:
        still = matrix[is_forgotten][:, is_forgotten].sum()
        parts.append(
            f"of {format_number(drew, 0)} that drew {run.forgotten}, {format_number(still, 0)} "
            f"still {'does' if still == 1 else 'do'}"
        )
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}."


@dataclass(frozen=True)
class Origin:
    """The provenance of a model on disk; ``share`` is its time as a share of the longest."""

    folder: str
    method: str
    seed: str
    seconds: float | None
    share: float
    parent: str
    sha256: str
    data_used: str
    settings: str


def list_origins(run: Run) -> list[Origin]:
    """Return one record per bundle."""
    seconds = {name: numbers_in(record).get("seconds") for name, record in run.lineage.items()}
    longest = max((s for s in seconds.values() if s is not None), default=0.0)
    return [
        Origin(
            folder=name,
            method=format_value(record.get("method")),
            seed=format_value(record.get("seed")),
            seconds=seconds[name],
            share=(seconds[name] or 0.0) / longest if longest else 0.0,
            parent=shorten_hash(record.get("parent")),
            sha256=shorten_hash(record.get("sha256")),
            data_used=format_value(record.get("data_used")),
            settings=json.dumps(shorten_paths(record.get("settings") or {}), indent=1, default=str),
        )
        for name, record in run.lineage.items()
    ]


def list_split_parts(run: Run) -> list[tuple[str, str, str]]:
    """Return the name, size and shortened hash of each part of the data."""
    parts = run.split.get("parts") or {}
    return [
        (str(name), format_value(part.get("n")), shorten_hash(part.get("sha256")))
        for name, part in parts.items()
        if isinstance(part, Mapping)
    ]


def reconstruct_command(run: Run) -> str:
    """Return the command line that made the run, from its configuration; "" if it is unknown."""
    options = {k: v for k, v in shorten_paths(run.config).items() if v is not None and v is not False}
    if "command" not in options:
        return ""
    words = ["unflow", str(options.pop("command"))]
    for name, value in options.items():
        argument = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [f"--{name}", shlex.quote(argument.lower() if value is True else argument)]
    return " ".join([*words, "--out", shlex.quote(run.name)])


def shorten_hash(value: Any) -> str:
    """Return the first 12 digits of a hash."""
    return MISSING if value is None else str(value)[:12]


def format_value(value: Any) -> str:
    """Return a value of a JSON or YAML file as text; null and empty values are –."""
    if value is None or value in ([], "", {}):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_number(value, 4)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(shorten_paths(value))


def shorten_paths(value: Any) -> Any:
    """Return plain data in which absolute paths are cut to their last part, since a page may be shared."""
    if isinstance(value, Mapping):
        return {str(k): shorten_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [shorten_paths(v) for v in value]
    if not isinstance(value, str):
        return value
    folder = value.rpartition(":")[2]  # classifier:DIR, mnist:DIR
    return value.removesuffix(folder) + PurePath(folder).name if PurePath(folder).is_absolute() else value
