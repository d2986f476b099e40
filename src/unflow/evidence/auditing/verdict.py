"""The verdict of an audit in three sentences: forgotten or not, at what cost, and what could undo it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unflow.evidence.row import AuditRow, find_reference, find_row


class Verdict(NamedTuple):
    """Three sentences."""

    forgotten: str
    cost: str
    undone: str


def verdicts(
    rows: Sequence[AuditRow],
    floors: Mapping[str, Mapping[str, float | None]],
    names: Sequence[str],
    attacks: Mapping[str, Any] | None,
    second_judge: bool,
) -> dict[str, list[str]]:
    """Return the three sentences about every row that is no reference, by family and method.

    Args:
        rows: of an audit.
        floors: family -> distances between two sets of exact target samples.
        names: of the forgotten classes.
        attacks: record of the attacks; None where there were none.
        second_judge: whether there is one.
    """
    return {
        row.key: list(
            Verdict(
                _describe_forgetting(row, rows, " or ".join(names)),
                _describe_cost(row, find_row(rows, row.family, "original"), floors.get(row.family) or {}),
                _describe_undoing(row, attacks, second_judge),
            )
        )
        for row in rows
        if not row.is_reference
    }


# Forgotten


def _describe_forgetting(row: AuditRow, rows: Sequence[AuditRow], names: str) -> str:
    original, beside = find_row(rows, row.family, "original"), find_reference(rows, row.family)
    assert original is not None  # ``audit_family`` has refused rows without one
    share = f"{_percent(row.require('forget_rate'))}{_within(row, 'forget_rate', 100)}"
    left = f"{share} of its samples are still {names}"
    before = f"the original's {_percent(original.require('forget_rate'))}"
    if beside is None:
        return f"{_judge_forgetting(row, original, None)}: {left}, against {before}."
    then = f"{_percent(beside.require('forget_rate'))} of the {_reference(beside)}"
    return f"{_judge_forgetting(row, original, beside)}: {left}, against {before} and {then}."


def _judge_forgetting(row: AuditRow, original: AuditRow, beside: AuditRow | None) -> str:
    low, high = row.ends("forget_rate")
    if high >= original.ends("forget_rate")[0]:
        return "Not forgotten"
    if beside is None:
        return "Less than before"
    bar_low, bar_high = beside.ends("forget_rate")
    if low > bar_high:
        return "Partly forgotten"
    return "Forgotten, and further than was asked for" if high < bar_low else "Forgotten"


def _reference(row: AuditRow) -> str:
    return {"retrained": "retrained model", "target": "exact target"}[row.method]


# Cost


def _describe_cost(row: AuditRow, original: AuditRow | None, floor: Mapping[str, float | None]) -> str:
    parts = []
    retain, target, stayed = (row.number(name) for name in ("fid_retain", "fid_target", "stayed_share"))
    if retain is not None:
        before = None if original is None else original.number("fid_retain")
        at = "" if before is None else f" (the original's {before:.3g})"
        value = f"{retain:.3g}{_within(row, 'fid_retain')}"
        parts.append(f"the distance to real retained samples is {value}{at}")
    if target is not None:
        lowest = floor.get("fid_target")
        at = "" if lowest is None else f", the floor {lowest:.3g}"
        parts.append(f"that to the exact target {target:.3g}{_within(row, 'fid_target')}{at}")
    if stayed is not None:
        parts.append(f"{_percent(stayed)} of the retained latents keep their class")
    if row.redistribution is not None:
        p_value = row.redistribution["p_value"]
        told = "are not" if p_value < 0.01 else "may be"
        parts.append(f"the shares of the other classes {told} those of the target ({_p_value(p_value)})")
    return f"Elsewhere {'; '.join(parts)}." if parts else "What it cost elsewhere was not measured."


# What could undo it


def _describe_undoing(row: AuditRow, attacks: Mapping[str, Any] | None, second_judge: bool) -> str:
    if row.original_recoverable:
        inside = ((attacks or {}).get("inside") or {}).get(row.method)
        rate = f", and gives {_percent(inside['forget_rate'])} of it" if inside else ""
        return (
            f"The original is still inside{rate}: anyone with the file can take it out. This is suppression."
        )
    if attacks is None:
        how = "without `--attack false`" if second_judge else "with a second judge"
        return f"What could bring it back was not tried: run `unflow audit` {how}."
    found = [
        words
        for words in (_describe_search(row.method, attacks), _describe_relearning(row.method, attacks))
        if words
    ]
    return f"{'; '.join(found)}." if found else "No attack was possible on this model."


def _describe_search(method: str, attacks: Mapping[str, Any]) -> str | None:
    search = attacks["latent_search"].get(method)
    if search is None:
        return None
    against = attacks["latent_search"].get("retrained") or attacks["latent_search"].get("original")
    other = "retrained model" if attacks["latent_search"].get("retrained") else "original"
    return (
        f"A search over latents finds it from {_percent(search['success_share'])} of the starts "
        f"({_percent(against['success_share'])} in the {other})"
    )


def _describe_relearning(method: str, attacks: Mapping[str, Any]) -> str | None:
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


def _within(row: AuditRow, name: str, scale: float = 1) -> str:
    interval = row.interval(name)
    return "" if interval is None else f" [{scale * interval[0]:.3g}, {scale * interval[1]:.3g}]"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _list(names: Sequence[str]) -> str:
    return " or ".join(names)
