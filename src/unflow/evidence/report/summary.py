"""Sentences about a run that are computed from its numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from unflow.evidence.report.read import Run
from unflow.evidence.report.words import family_name, format_number, join
from unflow.evidence.row import AuditRow, is_farther
from unflow.mathematics.shares import share_interval


def forget_interval(row: AuditRow) -> tuple[float, float]:
    """Return the 95 % interval of a row's forget rate: the audit's, else Wilson's, else the rate twice.

    It covers the sampling error, not the seed of a training.

    Raises:
        InputError: if the forget rate was not measured.
    """
    rate = row.require("forget_rate")
    if row.interval("forget_rate") is None and row.half_width is not None and row.n:
        return share_interval(rate * row.n, row.n)
    return row.ends("forget_rate")


def format_per_thousand(rate: float) -> str:
    """Return a rate as a count per 1,000."""
    return format_number(1000 * rate, 0 if rate >= 0.1 else 1)


def write_title(run: Run) -> str:
    """Return the request in words."""
    words = run.request.get("words")
    if words:
        return f"Forget {words}"
    names = [run.class_name(k) for k in run.forget]
    return f"Forget class {join(names, 'or')}" if names else "An unlearning request"


def write_subtitle(run: Run) -> str:
    """Return the strength, divergence and seed of the request, as far as they are known."""
    known = {name: run.request.get(name) for name in ("strength", "divergence")}
    known["seed"] = run.config.get("seed")
    return " · ".join(f"{name} {value}" for name, value in known.items() if value is not None)


def write_sentences(run: Run, family: str) -> list[str]:
    """Return the summary of a family: forget rates of the references and the methods, and the closest row."""
    return [
        *_describe_references(run, family),
        *_describe_methods(run, family),
        *_describe_closest(run, family),
    ]


def _describe_references(run: Run, family: str) -> Iterator[str]:
    phrases = {
        "original": "the original draws",
        "retrained": f"a model retrained without {run.forgotten} draws",
        "target": "the exact target",
    }
    parts: list[str] = []
    for method, phrase in phrases.items():
        row = run.row(family, method)
        rate = None if row is None else row.number("forget_rate")
        if rate is not None:
            is_first = " as " + run.forgotten if not parts else ""
            parts.append(f"{phrase} {format_per_thousand(rate)}{is_first}")
    if parts:
        yield f"Of 1,000 samples {join(parts)}."


def _describe_methods(run: Run, family: str) -> Iterator[str]:
    rows = [row for row in run.rows_of(family) if not row.is_reference]
    left = [
        f"{run.row_name(row)} {format_per_thousand(rate)}"
        for row in rows
        if (rate := row.number("forget_rate")) is not None
    ]
    if left:
        yield f"After unlearning: {join(left)}."
    for comparison, comment in (("fewer", ": over-forgetting, not a better result"), ("more", "")):
        names = [run.row_name(row) for row in rows if row.against_retrained == comparison]
        if names:
            subject, verb = join(names), "leaves" if len(names) == 1 else "leave"
            yield f"{subject[0].upper()}{subject[1:]} {verb} {comparison} than the retrained model{comment}."


def _describe_closest(run: Run, family: str) -> Iterator[str]:
    rows = [row for row in run.rows_of(family) if not row.is_reference]
    known = [row for row in rows if row.number("fid_target") is not None]
    if not known:
        return
    closest = min(known, key=lambda row: row.require("fid_target"))
    original = run.row(family, "original")
    distances = {
        "floor": run.floor(family).get("fid_target"),
        "original": None if original is None else original.number("fid_target"),
    }
    others = ", ".join(f"{name} {format_number(v)}" for name, v in distances.items() if v is not None)
    alike = [run.row_name(row) for row in known if row is not closest and not is_farther(row, closest)]
    yield (
        f"Closest to the exact target is {run.row_name(closest)}, at a Fréchet distance of "
        f"{format_number(closest.number('fid_target'))}{f' ({others})' if others else ''}"
        f"{f'; {join(alike)} may be as close' if alike else ''}."
    )


def list_verdicts(run: Run, family: str) -> list[tuple[str, list[str]]]:
    """Return name and verdict, three sentences by the audit, of every method of a family that has one."""
    found = run.audit.get("verdicts") or {}
    return [(run.row_name(row), found[row.key]) for row in run.rows_of(family) if row.key in found]


def list_cautions(run: Run) -> list[str]:
    """Return warnings about missing or inconsistent files that the audit's own notes do not give."""
    found = []
    if (run.audit.get("judge") or {}).get("independent_of_guide") is None:
        found.append("Whether the judge is independent of the guide was not recorded.")
    for family in run.families:
        found += [f"{family_name(family)}: {caution}" for caution in _list_family_cautions(run, family)]
    for key, samples in run.samples.items():
        bad = int((~np.isfinite(samples.x).reshape(len(samples.x), -1).all(1)).sum())
        if bad:
            found.append(f"{key}: {bad} of {len(samples.x)} samples have values that are not finite.")
    return found


def _list_family_cautions(run: Run, family: str) -> Iterator[str]:
    rows = run.rows_of(family)
    if run.row(family, "retrained") is None:
        yield "no retrained model was audited, so the right forget rate is not known."
    if run.floor(family).get("fid_target") is None:
        yield "the floor was not measured, so distances have no reference value."
    for name, heading in (("n", "numbers of samples"), ("extractor", "feature extractors")):
        values = sorted({str(value) for row in rows if (value := row[name]) is not None})
        if len(values) > 1:
            yield f"the rows use different {heading} ({join(values)}); compare them with care."
