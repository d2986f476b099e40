"""The report of one run folder as a self-contained HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from unflow.evidence.measures import Measure
from unflow.evidence.report import figures, tables
from unflow.evidence.report.asked import find_obstacle, list_asked
from unflow.evidence.report.attacked import read_attacks
from unflow.evidence.report.gallery import build_galleries
from unflow.evidence.report.pictures import build_album, build_slider
from unflow.evidence.report.rates import place_rates
from unflow.evidence.report.read import Run, read_run
from unflow.evidence.report.summary import (
    list_cautions,
    list_verdicts,
    write_sentences,
    write_subtitle,
    write_title,
)
from unflow.evidence.report.templates import fill_template, write_page
from unflow.evidence.report.terminal import HOLDS
from unflow.evidence.report.trade_off import draw_trade_off
from unflow.evidence.report.words import TAGS, describe_row, family_name, format_number, row_label
from unflow.evidence.row import AuditRow, numbers_in

if TYPE_CHECKING:
    from markupsafe import Markup


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run folder as one self-contained HTML page.

    The report reads ``audit.json`` and, if they exist, ``samples/``, ``metrics.jsonl``, ``lineage.json``,
    ``config.yaml`` and ``split.json``. It computes no metric and loads no model. The page lists missing
    files, and shows a number that was not measured as –.

    Args:
        run: the run folder.
        out: the file (``*.html``) or a folder for ``report.html``; the run folder when omitted.

    Returns:
        The file's path.

    Raises:
        InputError: if audit.json is missing, or a file is damaged or has another schema.
    """
    run = Path(run)
    page = fill_template("report.html.j2", _build_context(read_run(run)))
    return write_page(page, run if out is None else Path(out))


def _build_context(run: Run) -> dict[str, Any]:
    measures = tables.list_measures([run])
    return {
        "title": write_title(run),
        "subtitle": write_subtitle(run),
        "run": run,
        "families": [_describe_family(run, family, measures) for family in run.families],
        "measures": measures,
        "costs": tables.COST_COLUMNS,
        "meanings": _explain_rows(run),
        "attacks": read_attacks(run),
        "questions": run.audit.get("questions"),
        "not_asked": find_obstacle(run),
        "curves": _draw_curves(run),
        "curves_absent": _list_absent_curves(run),
        "judge": _describe_judge(run),
        "split": tables.list_split_parts(run),
        "fingerprint": tables.shorten_hash(run.split.get("fingerprint")),
        "origins": tables.list_origins(run),
        "data_used": [
            (family_name(family), run.row_name(row), tables.format_value(list(row.data_used)))
            for family in run.families
            for row in run.rows_of(family)
        ],
        "guards": [(HOLDS[g["holds"]], g["name"], g["words"]) for g in run.audit.get("guards") or []],
        "cautions": list_cautions(run),
        "notes": [str(note) for note in run.audit.get("notes") or []],
        "versions": run.audit.get("versions") or {},
        "command": tables.reconstruct_command(run),
        "config": yaml.safe_dump(tables.shorten_paths(run.config), sort_keys=False) if run.config else "",
        "name": shlex.quote(run.name),
        "number": format_number,
    }


def _explain_rows(run: Run) -> list[tuple[str, str]]:
    rows = dict.fromkeys(["floor", *(row.method for family in run.families for row in run.rows_of(family))])
    return [*((row_label(row), about) for row in rows if (about := describe_row(row))), *TAGS.items()]


def _describe_family(run: Run, family: str, measures: Sequence[Measure]) -> dict[str, Any]:
    rows = run.rows_of(family)
    slug = f"f{run.families.index(family)}"

    def draw_panels(
        kind: str, has: Callable[[AuditRow], bool], draw: Callable[[Run, AuditRow, str], Markup]
    ) -> dict[str, Any]:
        shown = [(i, row) for i, row in enumerate(rows) if has(row)]
        return {
            "panels": [(run.row_name(row), draw(run, row, f"{slug}{kind}{i}")) for i, row in shown],
            "absent": [run.row_name(row) for row in rows if not has(row)],
        }

    matrices = [(row, tables.build_transitions(run, row)) for row in rows if not row.is_reference]
    return {
        "name": family_name(family),
        "slug": slug,
        "sentences": write_sentences(run, family),
        "verdicts": list_verdicts(run, family),
        "rates": place_rates(run, family),
        "table": tables.build_audit_table(run, family, measures),
        "resolved": tables.build_difference_table(run, family),
        "album": build_album(run, family),
        "stops": build_slider(run, family),
        "classes": draw_panels("classes", figures.has_class_shares, figures.draw_class_shares),
        "trade_off": draw_trade_off([(run.row_name(row), row, 0) for row in rows], f"{slug}trade"),
        "galleries": build_galleries(run, family),
        "moves": [(found, tables.draw_transitions(run, row)) for row, found in matrices if found is not None],
        "moves_absent": [run.row_name(row) for row, found in matrices if found is None],
        "energies": draw_panels(
            "energies", lambda row: figures.has_energies(run, row), figures.draw_energies
        ),
        "cost": tables.build_cost_table(run, family),
        "asked": list_asked(run, family),
    }


def _draw_curves(run: Run) -> list[tuple[str, Markup]]:
    drawable = {k: records for k, records in run.curves.items() if figures.list_losses(records)}
    return [
        (folder, figures.draw_losses(folder, records, f"curve{i}"))
        for i, (folder, records) in enumerate(drawable.items())
    ]


def _list_absent_curves(run: Run) -> list[str]:
    """Return the folders of trained rows that have no training log with a loss."""
    trained = [row for row in run.rows if row.method != "target"]
    folders = {row.family if row.method == "original" else f"unlearned/{row.key}": None for row in trained}
    return [name for name in folders if not figures.list_losses(run.curves.get(name, []))]


def _describe_judge(run: Run) -> list[tuple[str, str]]:
    judge = run.audit.get("judge") or {}
    numbers = numbers_in(judge)
    return [
        ("Judge", tables.format_value(judge.get("name"))),
        ("Accuracy on held-out real data", format_number(numbers.get("accuracy"), 4)),
        ("Independent of the guide", tables.format_value(judge.get("independent_of_guide"))),
        (
            "Correlation of its errors with the guide's",
            format_number(numbers.get("error_correlation_with_guide"), 3),
        ),
        ("SHA-256", tables.shorten_hash(judge.get("sha256"))),
    ]
