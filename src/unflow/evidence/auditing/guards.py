"""Seven ways in which a good number is false, and whether an audit is safe from each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unflow.evidence.row import AuditRow


class Guard(NamedTuple):
    """One of the seven.

    Attributes:
        name: what may be false.
        holds: whether the audit is safe from it; None where it cannot know.
        words: why.
    """

    name: str
    holds: bool | None
    words: str


def guards(
    rows: Sequence[AuditRow], request: Mapping[str, Any], judge: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the seven as plain data, in the order of this file.

    Args:
        rows: of an audit, with their verdicts.
        request: in plain data; "words" describe it.
        judge: the record of the judge.
    """
    methods = [row for row in rows if not row.is_reference]
    found = [
        _guard_target(rows, methods, str(request.get("words"))),
        _guard_over_forgetting(rows, methods),
        _guard_data(methods),
        _guard_time(methods),
        _guard_judge(judge),
        _guard_seeds(rows),
        _guard_false_alarms(judge),
    ]
    return [guard._asdict() for guard in found]


def _families(rows: Sequence[AuditRow], method: str) -> set[str]:
    return {row.family for row in rows if row.method == method}


def _guard_target(rows: Sequence[AuditRow], methods: Sequence[AuditRow], words: str) -> Guard:
    name = "The target is the request's own"
    if not _families(rows, "target"):
        return Guard(name, True, "No row was held to a target.")
    if {row.family for row in methods} <= _families(rows, "retrained"):
        return Guard(name, True, f"Besides the target of {words}, every row is held to a retrained model.")
    return Guard(
        name,
        False,
        f"The energy of {words} defines the target: an easy request flatters the distance to it, and no "
        "retrained model stands beside every row.",
    )


def _guard_over_forgetting(rows: Sequence[AuditRow], methods: Sequence[AuditRow]) -> Guard:
    name = "Less than retraining leaves is not better"
    if not _families(rows, "retrained"):
        return Guard(name, None, "Without a retrained model nothing says how little is right.")
    over = [f"{row.family} {row.method}" for row in methods if row.over_forgets]
    if over:
        return Guard(name, False, f"Over-forgetting: {', '.join(over)}.")
    return Guard(name, True, "No row leaves less than the retrained model, by more than noise.")


def _guard_data(rows: Sequence[AuditRow]) -> Guard:
    name = "A guide that was trained on retained images uses them"
    silent = [row.method for row in rows if not row.data_used]
    if silent:
        return Guard(name, None, f"What was used is not recorded for {', '.join(dict.fromkeys(silent))}.")
    used = dict.fromkeys(f"{row.method}: {', '.join(row.data_used)}" for row in rows)
    return Guard(name, True, f"Recorded: {'; '.join(used)}.")


def _guard_time(rows: Sequence[AuditRow]) -> Guard:
    name = "Unlearning takes guide, bank, rejection and distillation"
    silent = [row.method for row in rows if row.number("cost.unlearn_seconds") is None]
    if silent:
        return Guard(name, None, f"The seconds are not known of {', '.join(dict.fromkeys(silent))}.")
    return Guard(name, True, "The seconds of every row include them.")


def _guard_judge(judge: Mapping[str, Any]) -> Guard:
    name, independent = "A judge that is the guide praises it", judge.get("independent_of_guide")
    words = "; ".join(_describe_judge(judge))
    if independent is None:
        return Guard(
            name, None, f"The guide, or what one of them was trained on, is not known{words and ': '}{words}."
        )
    alike = "The judge has the guide's weights, or was trained on the same images"
    start = "Other weights and other images" if independent else alike
    return Guard(name, independent, f"{start}{words and '; '}{words}.")


def _describe_judge(judge: Mapping[str, Any]) -> Iterator[str]:
    correlation, differs = judge.get("error_correlation_with_guide"), judge.get("disagreement_with_guide")
    if correlation is not None:
        yield f"their errors correlate by {correlation:.2f}"
    if differs is not None:
        yield f"they disagree on {100 * differs:.3g} % of real images"


def _guard_seeds(rows: Sequence[AuditRow]) -> Guard:
    name, seeds = (
        "Settings tuned on the seed that is shown",
        sorted({int(row.require("seed")) for row in rows}),
    )
    if len(seeds) < 3:
        many = "One seed" if len(seeds) == 1 else "Two seeds"
        words = "the intervals are those of the sampling, not of another training"
        return Guard(name, False, f"{many}: {words}. Audit three that chose nothing.")
    return Guard(name, True, f"Seeds {', '.join(map(str, seeds))}.")


def _guard_false_alarms(judge: Mapping[str, Any]) -> Guard:
    name, rate = "The judge calls real retained images forgotten, too", judge.get("false_alarm_rate")
    if rate is None:
        return Guard(name, None, "How many of them it does was not measured.")
    return Guard(name, True, f"It does with {100 * rate:.3g} %: hold every forget rate to that.")
