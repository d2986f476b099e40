"""Several runs on one page: the same numbers beside each other, and what forbids to compare them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unflow.evidence.report import tables
from unflow.evidence.report.pictures import Strip, paired_strips
from unflow.evidence.report.read import Row, Run, read_run
from unflow.evidence.report.summary import label, title, verdicts
from unflow.evidence.report.templates import fill, safe, write_page
from unflow.evidence.report.trade_off import trade_off
from unflow.evidence.report.words import METRICS, family_name, join
from unflow.ground.errors import InputError

Runs = Sequence[tuple[str, Run]]
"""Runs by the name that tells them apart."""


def write_comparison(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write one self-contained page about several run folders.

    Args:
        runs: two or more run folders, each with audit.json.
        out: the page (``*.html``) or a folder for ``report.html``.

    Returns:
        The page's path.

    Raises:
        InputError: for fewer than two runs, the same one twice, or a folder as ``write_report`` refuses it.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(
            f"got {', '.join(map(str, folders))} to compare; expected two or more different runs"
        )
    named = list(zip(_names(folders), map(read_run, folders), strict=True))
    return write_page(fill("compare.html.j2", _context(named)), Path(out))


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for k in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-k:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def _context(runs: Runs) -> dict[str, Any]:
    families = dict.fromkeys(family for _, run in runs for family in run.families)
    return {
        "names": [name for name, _ in runs],
        "title": join(list(dict.fromkeys(title(run) for _, run in runs))),
        "cautions": cautions(runs),
        "verdicts": [
            (name, heading, words)
            for name, run in runs
            for family in run.families
            for heading, words in verdicts(run, family)
        ],
        "families": [_family(runs, family, f"f{i}") for i, family in enumerate(families)],
        "metrics": METRICS,
        "forgotten": " / ".join(dict.fromkeys(run.forgotten for _, run in runs)),
        "command": f"unflow report {' '.join(shlex.quote(run.name) for _, run in runs)} --out report.html",
    }


def _family(runs: Runs, family: str, slug: str) -> dict[str, Any]:
    rows = [
        (f"{name} · {label(run, row)}", row, i)
        for i, (name, run) in enumerate(runs)
        for row in run.rows_of(family)
    ]
    drawn = trade_off(rows, f"{slug}trade")
    return {
        "name": family_name(family),
        "table": _table(runs, family),
        "trade_off": None if drawn is None else (drawn[0], safe(drawn[1])),
        "strips": _strips(runs, family),
    }


def _table(runs: Runs, family: str) -> tables.Table:
    """Return the rows of all runs, those of each marked by its name."""
    references: list[tables.Line] = []
    methods: list[tables.Line] = []
    for name, run in runs:
        if family not in run.families:
            continue
        own = tables.audit_table(run, family)
        references += [replace(line, name=f"{name} · {line.name}") for line in own.references]
        methods += [replace(line, name=f"{name} · {line.name}") for line in own.methods]
    return tables.Table(references, methods)


def _strips(runs: Runs, family: str) -> list[Strip]:
    """Return the samples of all rows from the latents that the first run's original has."""
    base = runs[0][1].samples.get(f"{family}-original")
    strips = []
    for name, run in runs:
        for strip in paired_strips(run, family, base):
            is_again = name != runs[0][0] and strip.name == "original"
            if not is_again:
                strips.append(replace(strip, name=f"{name} · {strip.name}"))
    return strips if len(strips) > 1 else []


def cautions(runs: Runs) -> list[str]:
    """Return what the runs do not have in common, and must have for their numbers to be compared."""
    request = ("forget", "words", "strength")
    asked = {
        "judges: their shares and distances are not on one scale": [_judge(run) for _, run in runs],
        "requests: they did not ask for the same": [
            repr([run.request.get(name) for name in request]) for _, run in runs
        ],
        "seeds: a difference may be the seed's": [str(run.config.get("seed")) for _, run in runs],
        "numbers of samples: distances fall as samples are added": [_of_rows(run, "n") for _, run in runs],
        "features: their distances are not on one scale": [_of_rows(run, "extractor") for _, run in runs],
        "originals: hold each to its own original": [
            repr([_original(run, family) for family in run.families]) for _, run in runs
        ],
    }
    return [f"The runs have different {what}." for what, found in asked.items() if len(set(found)) > 1]


def _judge(run: Run) -> str:
    judge = run.audit.get("judge") or {}
    return str(judge.get("sha256") or judge.get("name"))


def _of_rows(run: Run, key: str) -> str:
    return repr(sorted({str(row.values.get(key)) for row in run.rows}))


def _original(run: Run, family: str) -> tuple[float | None, ...]:
    row = run.row(family, "original") or Row({})
    return tuple(row.number(key) for key in ("forget_rate", "fid_retain", "fid_target"))
