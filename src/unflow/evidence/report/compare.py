"""Several run folders on one page, with the reasons why their numbers may not be comparable."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unflow.evidence.measures import Measure
from unflow.evidence.report import tables
from unflow.evidence.report.pictures import Strip, build_paired_strips
from unflow.evidence.report.read import Run, read_run
from unflow.evidence.report.summary import list_verdicts, write_title
from unflow.evidence.report.templates import fill_template, write_page
from unflow.evidence.report.trade_off import draw_trade_off
from unflow.evidence.report.words import family_name, join
from unflow.ground.errors import InputError

Runs = Sequence[tuple[str, Run]]
"""Runs with their distinct names."""


def write_comparison(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write one self-contained page about several run folders.

    Args:
        runs: two or more run folders, each with audit.json.
        out: the file (``*.html``) or a folder for ``report.html``.

    Returns:
        The file's path.

    Raises:
        InputError: for fewer than two runs, a repeated run, or a folder that ``write_report`` rejects.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(
            f"got {', '.join(map(str, folders))} to compare; expected two or more different runs"
        )
    named = list(zip(_shorten_paths(folders), map(read_run, folders), strict=True))
    return write_page(fill_template("compare.html.j2", _build_context(named)), Path(out))


def _shorten_paths(folders: Sequence[Path]) -> list[str]:
    """Return the last k parts of each path, with the smallest k that makes them distinct."""
    parts = [folder.resolve().parts for folder in folders]
    for k in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-k:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _build_context(runs: Runs) -> dict[str, Any]:
    families = dict.fromkeys(family for _, run in runs for family in run.families)
    measures = tables.list_measures(run for _, run in runs)
    return {
        "names": [name for name, _ in runs],
        "title": join(list(dict.fromkeys(write_title(run) for _, run in runs))),
        "cautions": list_cautions(runs),
        "verdicts": [
            (name, heading, verdict)
            for name, run in runs
            for family in run.families
            for heading, verdict in list_verdicts(run, family)
        ],
        "families": [_describe_family(runs, family, f"f{i}", measures) for i, family in enumerate(families)],
        "measures": measures,
        "forgotten": " / ".join(dict.fromkeys(run.forgotten for _, run in runs)),
        "command": f"unflow report {' '.join(shlex.quote(run.name) for _, run in runs)} --out report.html",
    }


def _describe_family(runs: Runs, family: str, slug: str, measures: Sequence[Measure]) -> dict[str, Any]:
    rows = [
        (f"{name} · {run.row_name(row)}", row, i)
        for i, (name, run) in enumerate(runs)
        for row in run.rows_of(family)
    ]
    return {
        "name": family_name(family),
        "table": _merge_tables(runs, family, measures),
        "trade_off": draw_trade_off(rows, f"{slug}trade"),
        "strips": _collect_strips(runs, family),
    }


def _merge_tables(runs: Runs, family: str, measures: Sequence[Measure]) -> tables.Table:
    """Return the rows of all runs; the name of a row starts with that of its run."""
    references: list[tables.Line] = []
    methods: list[tables.Line] = []
    for name, run in runs:
        if family not in run.families:
            continue
        own = tables.build_audit_table(run, family, measures)
        references += [replace(line, name=f"{name} · {line.name}") for line in own.references]
        methods += [replace(line, name=f"{name} · {line.name}") for line in own.methods]
    return tables.Table(references, methods)


def _collect_strips(runs: Runs, family: str) -> list[Strip]:
    """Return the samples of all rows whose latents equal those of the first run's original."""
    base = runs[0][1].samples.get(f"{family}-original")
    strips = []
    for name, run in runs:
        for strip in build_paired_strips(run, family, base):
            is_again = name != runs[0][0] and strip.name == "original"
            if not is_again:
                strips.append(replace(strip, name=f"{name} · {strip.name}"))
    return strips if len(strips) > 1 else []


def list_cautions(runs: Runs) -> list[str]:
    """Return a sentence for each property that differs between runs and that comparisons depend on."""
    request = ("forget", "words", "strength")
    found = {
        "judges: do not compare their forget rates and distances": [_judge_id(run) for _, run in runs],
        "requests: they did not ask to forget the same": [
            repr([run.request.get(name) for name in request]) for _, run in runs
        ],
        "seeds: the seed alone may explain a difference": [str(run.config.get("seed")) for _, run in runs],
        "numbers of samples: distances decrease with the number of samples": [
            _row_values(run, "n") for _, run in runs
        ],
        "features: do not compare their distances": [_row_values(run, "extractor") for _, run in runs],
        "originals: compare each run with its own original": [
            repr([_original_numbers(run, family) for family in run.families]) for _, run in runs
        ],
    }
    return [f"The runs have different {text}." for text, values in found.items() if len(set(values)) > 1]


def _judge_id(run: Run) -> str:
    judge = run.audit.get("judge") or {}
    return str(judge.get("sha256") or judge.get("name"))


def _row_values(run: Run, key: str) -> str:
    return repr(sorted({str(row[key]) for row in run.rows}))


def _original_numbers(run: Run, family: str) -> tuple[float | None, ...]:
    row = run.row(family, "original")
    keys = ("forget_rate", "fid_retain", "fid_target")
    return () if row is None else tuple(row.number(key) for key in keys)
