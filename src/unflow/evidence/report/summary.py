"""What may be concluded from the numbers, in sentences: each one computed, none of them praise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from unflow.evidence.report.read import Row, Run
from unflow.evidence.report.words import family_name, join, method_name, number


def interval(rate: float, n: float | None, width: float = 1.0) -> tuple[float, float]:
    """Return the Wilson score interval of a rate among n samples, ``width`` standard errors wide.

    Unlike r ± sqrt(r (1 - r) / n) it has a length at r = 0. It is about sampling only, not about
    the seed of a training. Without n it is the rate itself.
    """
    if not n or not math.isfinite(rate):
        return rate, rate
    shrink = 1 + width**2 / n
    centre = (rate + width**2 / (2 * n)) / shrink
    half = width * math.sqrt(rate * (1 - rate) / n + width**2 / (4 * n**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def half_width(row: Row) -> float | None:
    """Return half a 68 % interval of a row's forget rate, or None where it cannot be known."""
    rate, n = row.number("forget_rate"), row.number("n")
    if rate is None or not n:
        return None
    low, high = interval(rate, n)
    return (high - low) / 2


def compare(row: Row, retrained: Row | None) -> str | None:
    """Return whether a row's forget rate is ``fewer``, ``more`` or ``alike`` beside the retrained's.

    Fewer and more are two standard errors away, by the rule of the audit's own notes; None where
    either rate was not measured.
    """
    rate = row.number("forget_rate")
    other = None if retrained is None else retrained.number("forget_rate")
    if rate is None or other is None:
        return None
    n = row.number("n")
    slack = 2 * math.sqrt(max(other * (1 - other), 1 / n) / n) if n else 0.0
    return "fewer" if rate < other - slack else "more" if rate > other + slack else "alike"


def tags(run: Run, row: Row) -> list[str]:
    """Return the words that must stand beside a row's name."""
    if row.is_reference:
        return []
    holds = {
        "over-forgets": compare(row, run.row(row.family, "retrained")) == "fewer",
        "recoverable": row.values.get("original_recoverable") is True,
    }
    return [word for word, is_so in holds.items() if is_so]


def label(run: Run, row: Row) -> str:
    """Return a row's name; with its seed where the same method stands in the table twice."""
    twice = sum(other.key == row.key for other in run.rows) > 1
    seed = row.values.get("seed")
    return method_name(row.method) + (f", seed {seed}" if twice and seed is not None else "")


def per_thousand(rate: float) -> str:
    """Return a rate as a count among 1,000."""
    return number(1000 * rate, 0 if rate >= 0.1 else 1)


def title(run: Run) -> str:
    """Return the request in words."""
    words = run.request.get("words")
    if words:
        return f"Forget {words}"
    names = [run.class_name(k) for k in run.forget]
    return f"Forget class {join(names, 'or')}" if names else "An unlearning request"


def subtitle(run: Run) -> str:
    """Return strength, divergence and seed of the request, as far as they are known."""
    known = {name: run.request.get(name) for name in ("strength", "divergence")}
    known["seed"] = run.config.get("seed")
    return " · ".join(f"{name} {value}" for name, value in known.items() if value is not None)


def sentences(run: Run, family: str) -> list[str]:
    """Return a family's summary: what the references draw, what is left, how far the target is."""
    return [*_references(run, family), *_methods(run, family), *_distance(run, family)]


def _rate(row: Row | None) -> float | None:
    return None if row is None else row.number("forget_rate")


def _references(run: Run, family: str) -> Iterator[str]:
    words = {
        "original": "the original draws",
        "retrained": f"a model retrained without {run.forgotten} draws",
        "target": "the exact target",
    }
    parts: list[str] = []
    for method, phrase in words.items():
        if (rate := _rate(run.row(family, method))) is not None:
            is_first = " as " + run.forgotten if not parts else ""
            parts.append(f"{phrase} {per_thousand(rate)}{is_first}")
    if parts:
        yield f"Of 1,000 samples {join(parts)}."


def _methods(run: Run, family: str) -> Iterator[str]:
    rows = [row for row in run.rows_of(family) if not row.is_reference]
    left = [f"{label(run, row)} {per_thousand(r)}" for row in rows if (r := _rate(row)) is not None]
    if left:
        yield f"After unlearning: {join(left)}."
    retrained = run.row(family, "retrained")
    for word, meaning in (("fewer", "over-forgetting, not a better result"), ("more", None)):
        names = [label(run, row) for row in rows if compare(row, retrained) == word]
        if names:
            verb = "leaves" if len(names) == 1 else "leave"
            verdict = f": {meaning}" if meaning else ""
            yield f"{_capital(join(names))} {verb} {word} than the retrained model{verdict}."


def _distance(run: Run, family: str) -> Iterator[str]:
    rows = [row for row in run.rows_of(family) if not row.is_reference]
    known = [(d, row) for row in rows if (d := row.number("fid_target")) is not None]
    if not known:
        return
    distance, closest = min(known, key=lambda pair: pair[0])
    original = run.row(family, "original")
    beside = {
        "floor": floor(run, family, "fid_target"),
        "original": None if original is None else original.number("fid_target"),
    }
    others = ", ".join(f"{name} {number(v)}" for name, v in beside.items() if v is not None)
    alike = [label(run, row) for d, row in known if row is not closest and not _is_farther(row, closest)]
    yield (
        f"Closest to the exact target is {label(run, closest)}, at a Fréchet distance of "
        f"{number(distance)}{f' ({others})' if others else ''}"
        f"{f', not told apart from {join(alike)}' if alike else ''}."
    )


def _is_farther(row: Row, closest: Row) -> bool:
    """Return whether a row is farther from the target by more than noise, where its size is known."""
    ends = [(each.values.get("intervals") or {}).get("fid_target") for each in (row, closest)]
    halves = [(high - low) / 2 for low, high in filter(None, ends)]
    ours, theirs = row.number("fid_target"), closest.number("fid_target")
    assert ours is not None
    assert theirs is not None
    return len(halves) < 2 or ours - theirs > math.hypot(*halves)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def floor(run: Run, family: str, name: str) -> float | None:
    """Return what two independent exact-target sets measure, or None."""
    return Row((run.audit.get("floor") or {}).get(family) or {}).number(name)


def verdicts(run: Run, family: str) -> list[tuple[str, list[str]]]:
    """Return the audit's three sentences about every method that it has them for."""
    found = run.audit.get("verdicts") or {}
    return [(label(run, row), found[row.key]) for row in run.rows_of(family) if row.key in found]


def cautions(run: Run) -> list[str]:
    """Return what the files lack or mix, and the audit's own notes do not say."""
    found = []
    if (run.audit.get("judge") or {}).get("independent_of_guide") is None:
        found.append("Whether the judge is independent of the guide was not recorded.")
    for family in run.families:
        found += [f"{family_name(family)}: {text}" for text in _family_cautions(run, family)]
    for key, samples in run.samples.items():
        bad = int((~np.isfinite(samples.x).reshape(len(samples.x), -1).all(1)).sum())
        if bad:
            found.append(f"{key}: {bad} of {len(samples.x)} samples have values that are not finite.")
    return found


def _family_cautions(run: Run, family: str) -> Iterator[str]:
    rows = run.rows_of(family)
    if run.row(family, "retrained") is None:
        yield "no retrained model was audited, so nothing says how little is right."
    if floor(run, family, "fid_target") is None:
        yield "the floor was not measured; distances have nothing to be compared with."
    for name, word in (("n", "numbers of samples"), ("extractor", "feature extractors")):
        values = sorted({str(v) for row in rows if (v := row.values.get(name)) is not None})
        if len(values) > 1:
            yield f"the rows use different {word} ({join(values)}); compare them with care."
