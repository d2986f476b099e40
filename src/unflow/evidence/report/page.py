"""From a run folder to one HTML page that needs nothing but itself."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from unflow.evidence.report import figures, tables
from unflow.evidence.report.attacked import attacked
from unflow.evidence.report.gallery import galleries
from unflow.evidence.report.pictures import album
from unflow.evidence.report.rates import rates
from unflow.evidence.report.read import Row, Run, read_run
from unflow.evidence.report.strengths import stops
from unflow.evidence.report.summary import cautions, label, sentences, subtitle, title, verdicts
from unflow.evidence.report.templates import fill, safe, write_page
from unflow.evidence.report.terminal import HOLDS
from unflow.evidence.report.trade_off import trade_off
from unflow.evidence.report.words import ABOUT, COSTS, METHODS, METRICS, TAGS, family_name, number


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run folder as one self-contained page.

    Reads ``audit.json`` and, where they are, ``samples/``, ``metrics.jsonl``, ``lineage.json``,
    ``config.yaml`` and ``split.json``; computes no metric and loads no model. What is missing is
    called missing on the page, and what was not measured is shown as –.

    Args:
        run: the run folder.
        out: the page (``*.html``) or a folder for ``report.html``; the run folder when omitted.

    Returns:
        The page's path.

    Raises:
        InputError: if there is no audit.json, or a file is damaged or of another schema.
    """
    run = Path(run)
    return write_page(render(read_run(run)), run if out is None else Path(out))


def render(run: Run) -> str:
    """Return the page."""
    return fill("report.html.j2", _context(run))


def _context(run: Run) -> dict[str, Any]:
    return {
        "title": title(run),
        "subtitle": subtitle(run),
        "run": run,
        "families": [_family(run, family) for family in run.families],
        "metrics": METRICS,
        "costs": COSTS,
        "meanings": [(METHODS.get(k, k), about) for k, about in (ABOUT | TAGS).items()],
        "attacked": _attacked(run),
        "curves": _curves(run),
        "curves_absent": _curves_absent(run),
        "judge": _judge(run),
        "split": tables.split_parts(run),
        "fingerprint": tables.short_hash(run.split.get("fingerprint")),
        "origins": tables.origins(run),
        "data_used": [
            (family_name(r.family), label(run, r), tables.text(r.values.get("data_used")))
            for family in run.families
            for r in run.rows_of(family)
        ],
        "guards": [(HOLDS[g["holds"]], g["name"], g["words"]) for g in run.audit.get("guards") or []],
        "cautions": cautions(run),
        "notes": [str(note) for note in run.audit.get("notes") or []],
        "versions": run.audit.get("versions") or {},
        "command": tables.command(run),
        "config": _config(run),
        "name": shlex.quote(run.name),
        "number": number,
    }


def _family(run: Run, family: str) -> dict[str, Any]:
    rows = run.rows_of(family)
    original, target = run.row(family, "original"), run.row(family, "target")
    slug = f"f{run.families.index(family)}"

    def panels(kind: str, has: Callable[[Row], bool], draw: Callable[[Row, str], str]) -> Any:
        shown = [(i, row) for i, row in enumerate(rows) if has(row)]
        return {
            "panels": [(label(run, row), safe(draw(row, f"{slug}{kind}{i}"))) for i, row in shown],
            "absent": [label(run, row) for row in rows if not has(row)],
        }

    matrices = [(row, tables.moves(run, row)) for row in rows if not row.is_reference]
    return {
        "name": family_name(family),
        "slug": slug,
        "sentences": sentences(run, family),
        "verdicts": verdicts(run, family),
        "rates": rates(run, family),
        "table": tables.audit_table(run, family),
        "resolved": tables.resolved_table(run, family),
        "album": album(run, family),
        "stops": stops(run, family),
        "classes": panels(
            "classes",
            figures.has_classes,
            lambda row, name: figures.class_shares(run, row, original, target, name),
        ),
        "trade_off": _trade_off(run, family, slug),
        "galleries": galleries(run, family),
        "moves": [(found, safe(tables.ribbons_of(run, row))) for row, found in matrices if found is not None],
        "moves_absent": [label(run, row) for row, found in matrices if found is None],
        "energies": panels(
            "energies",
            lambda row: figures.has_energy(run, row),
            lambda row, name: figures.energies(run, row, name),
        ),
        "cost": tables.cost_table(run, family),
    }


def _trade_off(run: Run, family: str, slug: str) -> tuple[str, Any] | None:
    found = trade_off([(label(run, row), row, 0) for row in run.rows_of(family)], f"{slug}trade")
    return None if found is None else (found[0], safe(found[1]))


def _attacked(run: Run) -> Any:
    found = attacked(run)
    if found is None:
        return None
    return dataclasses.replace(found, curves=[(caption, safe(svg)) for caption, svg in found.curves])


def _curves(run: Run) -> list[tuple[str, Any]]:
    drawable = {k: records for k, records in run.curves.items() if figures.loss_names(records)}
    return [
        (folder, safe(figures.curves(folder, records, f"curve{i}")))
        for i, (folder, records) in enumerate(drawable.items())
    ]


def _curves_absent(run: Run) -> list[str]:
    """Return the logs that a run has by its rows, and that are not there or hold no loss."""
    trained = [row for row in run.rows if row.method != "target"]
    folders = {row.family if row.method == "original" else f"unlearned/{row.key}": None for row in trained}
    return [name for name in folders if not figures.loss_names(run.curves.get(name, []))]


def _judge(run: Run) -> list[tuple[str, str]]:
    judge = run.audit.get("judge") or {}
    accuracy, error = (Row(judge).number(k) for k in ("accuracy", "error_correlation_with_guide"))
    return [
        ("Judge", tables.text(judge.get("name"))),
        ("Accuracy on held-out real data", number(accuracy, 4)),
        ("Independent of the guide", tables.text(judge.get("independent_of_guide"))),
        ("Correlation of its errors with the guide's", number(error, 3)),
        ("SHA-256", tables.short_hash(judge.get("sha256"))),
    ]


def _config(run: Run) -> str:
    return yaml.safe_dump(tables.public(run.config), sort_keys=False) if run.config else ""
