"""The verdict of an audit: forgotten or not, at what cost, what could undo it, and what a question draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from unflow.evidence.auditing.asked import Questions
from unflow.evidence.auditing.grades import FULLY, NOT, PARTLY, lower_grade, read_grade
from unflow.evidence.condition_attacks import describe_condition_attacks
from unflow.evidence.row import AuditRow, find_reference, find_row
from unflow.evidence.score_attacks import describe_score_attacks


class Verdict(NamedTuple):
    """Three sentences, and two about a conditional model; those are empty for other models."""

    forgotten: str
    cost: str
    undone: str
    asked: str = ""
    neighbours: str = ""


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
        row.key: [
            _describe_forgetting(row, rows, " or ".join(names)),
            _describe_cost(row, find_row(rows, row.family, "original"), floors.get(row.family) or {}),
            _describe_undoing(row, attacks, second_judge),
        ]
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
    parts = [_describe_weights(row, attacks, second_judge)]
    if attacks is not None:
        parts += [
            describe_score_attacks(row.method, attacks),
            describe_condition_attacks(row.method, attacks),
        ]
    return " ".join(part for part in parts if part)


def _describe_weights(row: AuditRow, attacks: Mapping[str, Any] | None, second_judge: bool) -> str:
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
    labelled = " with their label" if relearning.get("labelled") else ""
    known = {
        k: (images["steps_to_half"].get(method), (images["ratio"] or {}).get(method))
        for k, images in relearning["images"].items()
        if k != "retain"
    }
    reached = [(int(k), steps, ratio) for k, (steps, ratio) in known.items() if steps is not None]
    best = _describe_sweep(method, relearning)
    if not reached:
        within = f"{relearning['steps']} steps on {_list(list(known))} images of it{labelled}"
        return f"half of it does not come back in {within}{best}"
    k, steps, ratio = max(reached)
    beside = "" if ratio is None else f", {ratio:.2g} times as many as the retrained model needs"
    return f"half of it comes back in {steps:.0f} steps on {k} images{labelled}{beside}{best}"


def _describe_sweep(method: str, relearning: Mapping[str, Any]) -> str:
    """Return the steps in the attacker's best setting beside the retrained model's; "" without a sweep."""
    if method not in (relearning.get("fewest") or {}):
        return ""
    fewest, settings = relearning["fewest"], relearning["sweep"]["settings"]
    best, retrained = fewest[method], fewest.get("retrained")
    if best is None:
        rates = sorted({setting["learning_rate"] for setting in settings})
        return f", nor at any learning rate of {_list([f'{rate:g}' for rate in rates])}"
    decoder = ", decoder trained too" if best["free_decoder"] else ""
    beside = "" if retrained is None else f" ({retrained['steps']:.2g} in the retrained model's best)"
    return (
        f"; in the best of {len(settings)} settings for the attacker (learning rate "
        f"{best['learning_rate']:g}{decoder}) in {best['steps']:.2g} steps{beside}"
    )


# What a conditional model draws when it is asked


def add_answers(
    found: Mapping[str, Sequence[str]],
    rows: Sequence[AuditRow],
    questions: Questions,
    forget: Sequence[int],
    class_names: Sequence[str],
) -> dict[str, list[str]]:
    """Return verdicts with the sentences about what conditional models draw when they are asked.

    The first sentence of a row that still draws the forgotten class where it is asked for is corrected.

    Args:
        found: three sentences about each row.
        rows: of the audit, with their answers.
        questions: what was asked for.
        forget: forgotten classes.
        class_names: of the judge.
    """
    names = " or ".join(str(class_names[k]) for k in forget)
    by_key = {row.key: row for row in rows}
    added = {}
    for key, sentences in found.items():
        row = by_key[key]
        others = {each.method: each.asked for each in rows if each.family == row.family and each.asked}
        asked, near = _describe_answers(row, others, questions, names), ""
        first = sentences[0]
        if row.asked is not None:
            near = _describe_neighbours(row, others["original"], questions, class_names)
            grade = _grade_answers(row.asked, others)
            if grade < read_grade(first):
                first = lower_grade(first, grade, "where it is asked for", "at random")
        added[key] = [first, *sentences[1:], asked, *([near] if near else [])]
    return added


def _grade_answers(asked: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> int:
    """Return how far the class is forgotten where it is asked for, at the worst guidance.

    The reference is the exact target, else the retrained model; without one, it is not forgotten entirely.
    """
    names = ["forgotten", *(f"guidance.{g}" for g in asked["guidance"])]
    ends, before = asked["intervals"], others["original"]["intervals"]
    if any(ends[name][1] >= before[name][0] for name in names):
        return NOT
    beside = others.get("target") or others.get("retrained")
    if beside is None or any(ends[name][0] > beside["intervals"]["forgotten"][1] for name in names):
        return PARTLY
    return FULLY


_DRAWN = {NOT: "it still draws it", PARTLY: "it draws it less often", FULLY: "it no longer draws it"}


def _describe_answers(
    row: AuditRow, others: Mapping[str, Mapping[str, Any]], questions: Questions, names: str
) -> str:
    if row.asked is None:
        why = questions.obstacle or "the audited model draws not all labels of the original"
        return f"The model is conditional, but was not asked for its labels: {why}."
    asked, original = row.asked, others["original"]
    beside = [
        f"{_percent(others[method]['forgotten'])} of the {words}"
        for method, words in (("target", "exact target"), ("retrained", "retrained model"))
        if method in others
    ]
    against = " and ".join([f"the original's {_percent(original['forgotten'])}", *beside])
    low, high = asked["intervals"]["forgotten"]
    drawn = _DRAWN[_grade_answers(asked, others)]
    parts = [
        f"Asked for {names}, {drawn}: {_percent(asked['forgotten'])} "
        f"[{100 * low:.3g}, {100 * high:.3g}] of the samples are {names}, against {against}"
    ]
    if asked["guidance"]:
        shares = ", ".join(f"{_percent(share)} at {g}" for g, share in asked["guidance"].items())
        parts.append(f"by guidance {shares}")
    if asked["null"] is not None:
        parts.append(f"the null condition draws it in {_percent(asked['null'])}")
    low, high = asked["intervals"]["own"]
    parts.append(
        f"asked for the other labels, {_percent(asked['own'])} [{100 * low:.3g}, {100 * high:.3g}] are of "
        f"their own class (the original's {_percent(original['own'])})"
    )
    return f"{'; '.join(parts)}; {_describe_questions(questions)}."


def _describe_questions(questions: Questions) -> str:
    """Return the number of samples, and of labels where not all were asked for."""
    asked, known = len(questions.labels), questions.num_conditions
    some = "each label" if asked == known else f"each of {asked} of {known} labels"
    return f"{questions.n} samples of {some}"


def _describe_neighbours(
    row: AuditRow, original: Mapping[str, Any], questions: Questions, class_names: Sequence[str]
) -> str:
    """Return how often the neighbours of the forgotten classes are of their own class, before and after."""
    assert row.asked is not None
    if not questions.neighbours:
        return ""
    before, after = (
        {record["label"]: record["own"] for record in asked["conditions"]} for asked in (original, row.asked)
    )
    each = [
        f"{class_names[k]} in {_percent(after[k])} (the original's {_percent(before[k])})"
        for k in questions.neighbours
    ]
    listed = f"{', '.join(each[:-1])} and {each[-1]}" if len(each) > 1 else each[0]
    return f"The judge's nearest other classes are drawn when they are asked for: {listed}."


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
