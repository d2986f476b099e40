"""The searches over the condition in the verdict: what they draw beyond a reference lowers the grade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unflow.evidence.auditing.grades import NOT, PARTLY, lower_grade, read_grade
from unflow.evidence.condition_attacks import BESIDE, CONDITION_ATTACKS, Record, describe_found
from unflow.evidence.metrics.uncertainty import difference_interval
from unflow.evidence.row import AuditRow

SLACK = 0.01
"""Share by which a search may succeed more often than on the retrained model."""
FAR = 0.10
"""The same against the exact target. It is larger because a free condition can make even a model draw a class
that it was never trained on; the exact target rejects such samples."""


class Excess(NamedTuple):
    """A search over the condition that draws more of a forgotten class than on the reference.

    Attributes:
        grade: the grade of the verdict, at most.
        words: the condition and both shares.
    """

    grade: int
    words: str


def add_searches(
    found: Mapping[str, Sequence[str]], rows: Sequence[AuditRow], attacks: Mapping[str, Any] | None
) -> dict[str, list[str]]:
    """Return verdicts on conditional models whose grade counts the searches over the condition.

    The first sentence is corrected and names each search with an excess. The third says which searches count
    for nothing, because no reference was attacked.

    Args:
        found: sentences about each row.
        rows: of the audit.
        attacks: record of the attacks; None where there were none.
    """
    methods = {row.key: row.method for row in rows}
    added = {}
    for key, sentences in found.items():
        first, cost, undone, *rest = sentences
        undone = f"{undone} {_describe_uncompared(methods[key], attacks)}".rstrip()
        added[key] = [_correct_grade(first, list_excesses(methods[key], attacks or {})), cost, undone, *rest]
    return added


def list_excesses(method: str, attacks: Mapping[str, Any]) -> list[Excess]:
    """Return the searches over the condition that succeed more often on a row than on the reference.

    The reference is the retrained model, with ``SLACK``, else the exact target, with ``FAR``. The difference
    must exceed the noise of both shares (95 %) as well. A share like the original's is not forgotten at all;
    but only a retrained model can show that the weights and not the search draw the class.

    Args:
        method: of the row.
        attacks: record of the attacks.
    """
    excesses = []
    for attack in CONDITION_ATTACKS:
        records = _list_reached(attacks, attack)
        reference = find_search_reference(records)
        if method not in records or reference is None:
            continue
        ours, beside = records[method], records[reference]
        if _is_above(ours, beside, SLACK if reference == "retrained" else FAR):
            grade = NOT if reference == "retrained" and _is_like_original(ours, records) else PARTLY
            excesses.append(Excess(grade, _describe_excess(attack, ours, beside, BESIDE[reference])))
    return excesses


def find_search_reference(records: Mapping[str, Record]) -> str | None:
    """Return the row with which the others are compared: the retrained model, else the exact target."""
    return next((row for row in ("retrained", "target") if row in records), None)


def _list_reached(attacks: Mapping[str, Any], attack: str) -> dict[str, Record]:
    """Return the records of a search by row, without those on which it was impossible."""
    return {row: one for row, one in (attacks.get(attack) or {}).items() if not one.get("obstacle")}


def _is_above(ours: Record, beside: Record, slack: float) -> bool:
    """Return whether one share exceeds another by more than a slack, and by more than noise."""
    counts = [(round(each["success_share"] * each["samples"]), each["samples"]) for each in (ours, beside)]
    excess = ours["success_share"] - beside["success_share"]
    return bool(excess > slack and difference_interval(*counts[0], *counts[1]).low > 0)


def _is_like_original(ours: Record, records: Mapping[str, Record]) -> bool:
    original = records.get("original")
    return original is not None and bool(ours["interval"][1] >= original["interval"][0])


def _describe_excess(attack: str, ours: Record, beside: Record, name: str) -> str:
    shares = [f"{100 * each['success_share']:.3g} %" for each in (ours, beside)]
    return f"{describe_found(attack, ours)} draws it in {shares[0]} of the samples, {shares[1]} in {name}"


def _correct_grade(sentence: str, excesses: Sequence[Excess]) -> str:
    if not excesses:
        return sentence
    named = "; ".join(each.words for each in excesses)
    lowest = min(each.grade for each in excesses)
    if lowest < read_grade(sentence):
        where = f"where the condition is searched for ({named})"
        return lower_grade(sentence, lowest, where, "without a search")
    return f"{sentence.removesuffix('.')}; where the condition is searched for, {named}."


def _describe_uncompared(method: str, attacks: Mapping[str, Any] | None) -> str:
    """Return that the searches on a row have no reference or were not made; "" where they count."""
    if attacks is None:
        return "The searches over the condition, which were not made, could lower this verdict."
    by_attack = [_list_reached(attacks, attack) for attack in CONDITION_ATTACKS]
    made = [records for records in by_attack if method in records]
    if not made or any(find_search_reference(records) is not None for records in made):
        return ""
    return (
        "The shares of the searches count for nothing in this verdict, because neither a retrained model nor "
        "the exact target was attacked: add `--retrained DIR`."
    )
