"""The verdict of an audit in three sentences: forgotten or not, at what cost, and what could undo it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unflow.evidence.auditing.certainty import interval_of
from unflow.evidence.auditing.family import REFERENCES

Row = Mapping[str, Any]


class Verdict(NamedTuple):
    """Three sentences."""

    forgotten: str
    cost: str
    undone: str


def verdicts(audit: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the three sentences about every row that is no reference, by family and method."""
    return {
        f"{row['family']}-{row['method']}": list(verdict(audit, row["method"], row["family"]))
        for row in audit["rows"]
        if row["method"] not in REFERENCES
    }


def verdict(audit: Mapping[str, Any], method: str, family: str) -> Verdict:
    """Return what an audit says about one of its rows.

    Args:
        audit: the content of audit.json.
        method: of the row.
        family: of the row.
    """
    rows = {row["method"]: row for row in audit["rows"] if row["family"] == family}
    row = rows[method]
    beside = rows.get("retrained") or rows.get("target")
    names = " or ".join(str(audit["class_names"][k]) for k in audit["request"]["forget"])
    return Verdict(
        _forgotten(row, rows["original"], beside, names),
        _cost(row, rows["original"], audit["floor"].get(row["family"]) or {}),
        _undone(row, method, audit),
    )


# Forgotten


def _forgotten(row: Row, original: Row, beside: Row | None, names: str) -> str:
    left = (
        f"{_percent(row['forget_rate'])}{_within(row, 'forget_rate', 100)} of its samples are still {names}"
    )
    before = f"the original's {_percent(original['forget_rate'])}"
    if beside is None:
        return f"{_how_far(row, original, None)}: {left}, against {before}."
    then = f"{_percent(beside['forget_rate'])} of the {_reference(beside)}"
    return f"{_how_far(row, original, beside)}: {left}, against {before} and {then}."


def _how_far(row: Row, original: Row, beside: Row | None) -> str:
    low, high = _ends(row, "forget_rate")
    if high >= _ends(original, "forget_rate")[0]:
        return "Not forgotten"
    if beside is None:
        return "Less than before"
    bar_low, bar_high = _ends(beside, "forget_rate")
    if low > bar_high:
        return "Partly forgotten"
    return "Forgotten, and further than was asked for" if high < bar_low else "Forgotten"


def _reference(row: Row) -> str:
    return {"retrained": "retrained model", "target": "exact target"}[row["method"]]


# Cost


def _cost(row: Row, original: Row, floor: Mapping[str, float | None]) -> str:
    parts = []
    if row.get("fid_retain") is not None:
        before = original.get("fid_retain")
        at = "" if before is None else f" (the original's {before:.3g})"
        value = f"{row['fid_retain']:.3g}{_within(row, 'fid_retain')}"
        parts.append(f"the distance to real retained samples is {value}{at}")
    if row.get("fid_target") is not None:
        at = "" if floor.get("fid_target") is None else f", the floor {floor['fid_target']:.3g}"
        parts.append(f"that to the exact target {row['fid_target']:.3g}{_within(row, 'fid_target')}{at}")
    if row.get("stayed_share") is not None:
        parts.append(f"{_percent(row['stayed_share'])} of the retained latents keep their class")
    test = row.get("redistribution")
    if test is not None:
        told = "are not" if test["p_value"] < 0.01 else "may be"
        parts.append(f"the shares of the other classes {told} those of the target ({_p(test['p_value'])})")
    return f"Elsewhere {'; '.join(parts)}." if parts else "What it cost elsewhere was not measured."


# What could undo it


def _undone(row: Row, method: str, audit: Mapping[str, Any]) -> str:
    attacks = audit.get("attacks")
    if row.get("original_recoverable"):
        inside = ((attacks or {}).get("inside") or {}).get(method)
        rate = f", and gives {_percent(inside['forget_rate'])} of it" if inside else ""
        return (
            f"The original sits inside{rate}: whoever has the file takes the rest off. This is suppression."
        )
    if attacks is None:
        how = "without `--attack false`" if audit.get("second_judge") else "with a second judge"
        return f"What could bring it back was not tried: run `unflow audit` {how}."
    found = [words for words in (_searched(method, attacks), _relearned(method, attacks)) if words]
    return f"{'; '.join(found)}." if found else "No attack was possible on this model."


def _searched(method: str, attacks: Mapping[str, Any]) -> str | None:
    search = attacks["latent_search"].get(method)
    if search is None:
        return None
    against = attacks["latent_search"].get("retrained") or attacks["latent_search"].get("original")
    other = "retrained model" if attacks["latent_search"].get("retrained") else "original"
    return (
        f"A search over latents finds it from {_percent(search['success_share'])} of the starts "
        f"({_percent(against['success_share'])} in the {other})"
    )


def _relearned(method: str, attacks: Mapping[str, Any]) -> str | None:
    relearning = attacks["relearning"]
    known = {
        k: (images["steps_to_half"].get(method), (images["ratio"] or {}).get(method))
        for k, images in relearning["images"].items()
        if k != "retain"
    }
    reached = [(int(k), steps, ratio) for k, (steps, ratio) in known.items() if steps is not None]
    if not reached:
        within = f"{relearning['steps']} steps on {_list(list(known))} images of it"
        return f"half of it does not come back in {within}"
    k, steps, ratio = max(reached)
    beside = "" if ratio is None else f", {ratio:.2g} times as many as the retrained model needs"
    return f"half of it comes back in {steps:.0f} steps on {k} images{beside}"


# Words


def _ends(row: Row, name: str) -> tuple[float, float]:
    interval = interval_of(row, name)
    return (row[name], row[name]) if interval is None else (interval[0], interval[1])


def _within(row: Row, name: str, scale: float = 1) -> str:
    interval = interval_of(row, name)
    return "" if interval is None else f" [{scale * interval[0]:.3g}, {scale * interval[1]:.3g}]"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _list(names: Sequence[str]) -> str:
    return " or ".join(names)
