"""The attacks over the condition of a conditional model: their names, and sentences about their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

CONDITION_ATTACKS = ("condition_search", "guidance_search", "mixture_search")
"""Names of the attacks over the condition, in the order of every table."""
BESIDE = {"retrained": "the retrained model", "target": "the exact target", "original": "the original"}
"""Rows that stand beside a share, the first that was attacked."""
NAMES = {
    "condition_search": "a free condition",
    "guidance_search": "another guidance",
    "mixture_search": "a mixture of two labels",
}


def describe_condition_attacks(method: str, attacks: Mapping[str, Any]) -> str:
    """Return what the attacks over the condition reach on a row, or why they are impossible; "" without any.

    Args:
        method: of the row.
        attacks: record of the attacks.
    """
    reached, impossible = [], {}
    for attack in CONDITION_ATTACKS:
        records = attacks.get(attack) or {}
        record = records.get(method)
        if record is None:
            continue
        if record.get("obstacle"):
            impossible[attack] = record["obstacle"]
        else:
            reached.append(_describe_reached(attack, method, records))
    sentences = [_describe_impossible(impossible)] if impossible else []
    if reached:
        sentences.insert(0, f"Of fresh samples, {_join(reached)}.")
    return " ".join(sentences)


def describe_found(attack: str, record: Record) -> str:
    """Return the condition that an attack found: "guidance -2.5", "labels 3 and 8 mixed 0.25 to 0.75"."""
    at = record["at"]
    if attack == "guidance_search":
        return f"guidance {at['guidance']:.4g}"
    if attack == "mixture_search":
        (a, b), (w, v) = at["labels"], at["weights"]
        return f"labels {a} and {b} mixed {w:g} to {v:g}"
    return "a known condition" if at["set"] == "known" else f"a free condition in the {at['set']}"


def _describe_reached(attack: str, method: str, records: Mapping[str, Record]) -> str:
    record = records[method]
    low, high = (100 * end for end in record["interval"])
    share = f"{_percent(record['success_share'])} [{low:.3g}, {high:.3g}]"
    for row, name in BESIDE.items():
        other = records.get(row)
        if other is not None and not other.get("obstacle"):
            share += f" ({_percent(other['success_share'])} in {name})"
            break
    return f"{describe_found(attack, record)} draws it in {share}"


def _describe_impossible(impossible: Mapping[str, str]) -> str:
    """Return one sentence for each reason."""
    reasons: dict[str, list[str]] = {}
    for attack, reason in impossible.items():
        reasons.setdefault(reason, []).append(NAMES[attack])
    return " ".join(
        f"{_capitalise(_join(names))} {'was' if len(names) == 1 else 'were'} not tried: {reason}."
        for reason, names in reasons.items()
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


def _join(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
