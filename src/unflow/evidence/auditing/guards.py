"""Checks for the seven ways in which a good number can be false."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unflow.evidence.row import AuditRow


class Guard(NamedTuple):
    """One check.

    Attributes:
        name: what holds where the numbers can be trusted.
        holds: whether it holds; None if it cannot be known.
        words: the reason.
    """

    name: str
    holds: bool | None
    words: str


def guards(
    rows: Sequence[AuditRow], request: Mapping[str, Any], judge: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the seven checks as plain data, in the order of this file.

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
    name = "The distance to the target is not the only evidence"
    if not _families(rows, "target"):
        return Guard(name, True, "No row is compared with a target.")
    if {row.family for row in methods} <= _families(rows, "retrained"):
        return Guard(
            name, True, f"Besides the target of {words}, every row is compared with a retrained model."
        )
    return Guard(
        name,
        False,
        f"The energy of {words} defines the target: an easy request flatters the distance to it, and not "
        "every row is compared with a retrained model.",
    )


def _guard_over_forgetting(rows: Sequence[AuditRow], methods: Sequence[AuditRow]) -> Guard:
    name = "No row forgets more than retraining does"
    if not _families(rows, "retrained"):
        return Guard(name, None, "Without a retrained model it is not known how little is right.")
    over = [f"{row.family} {row.method}" for row in methods if row.over_forgets]
    if over:
        return Guard(name, False, f"Over-forgetting: {', '.join(over)}.")
    return Guard(name, True, "No row leaves less than the retrained model by more than noise.")


def _guard_data(rows: Sequence[AuditRow]) -> Guard:
    name = "The data that each method has seen are recorded"
    silent = [row.method for row in rows if not row.data_used]
    if silent:
        return Guard(name, None, f"The data used are not recorded for {', '.join(dict.fromkeys(silent))}.")
    used = dict.fromkeys(f"{row.method}: {', '.join(row.data_used)}" for row in rows)
    return Guard(name, True, f"Recorded: {'; '.join(used)}.")


def _guard_time(rows: Sequence[AuditRow]) -> Guard:
    name = "Unlearning time includes guide, bank, rejection and distillation"
    silent = [row.method for row in rows if row.number("cost.unlearn_seconds") is None]
    if silent:
        return Guard(name, None, f"The seconds are not known for {', '.join(dict.fromkeys(silent))}.")
    return Guard(name, True, "The seconds of every row include them.")


def _guard_judge(judge: Mapping[str, Any]) -> Guard:
    name, independent = "The judge is not the guide", judge.get("independent_of_guide")
    words = "; ".join(_describe_judge(judge))
    if independent is None:
        return Guard(
            name,
            None,
            f"The guide, or the training data of guide or judge, is not known{words and ': '}{words}.",
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
        "Three seeds or more show how much a training varies",
        sorted({int(row.require("seed")) for row in rows}),
    )
    if len(seeds) < 3:
        many = "One seed" if len(seeds) == 1 else "Two seeds"
        words = "the intervals cover the sampling, not another training"
        return Guard(
            name, False, f"{many}: {words}. Audit three seeds that were not used to choose settings."
        )
    return Guard(name, True, f"Seeds {', '.join(map(str, seeds))}.")


def _guard_false_alarms(judge: Mapping[str, Any]) -> Guard:
    name, rate = "The judge's false alarms are known", judge.get("false_alarm_rate")
    if rate is None:
        return Guard(name, None, "The share was not measured.")
    return Guard(
        name,
        True,
        f"It assigns {100 * rate:.3g} % of real retained images to the forgotten classes: compare every "
        "forget rate with that.",
    )
