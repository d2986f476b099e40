"""The types of the fields of audit.json, and a check that names the first field of another type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from unflow.evidence.condition_attacks import CONDITION_ATTACKS
from unflow.evidence.measures import MEASURES
from unflow.evidence.score_attacks import SCORE_ATTACKS, SCORES
from unflow.ground.errors import InputError, shorten

Check = Callable[[Any, str], None]
"""Raises InputError, with the name of the field, for a value of another type."""


def _expect(holds: bool, value: Any, name: str, expected: str) -> None:
    if not holds:
        raise InputError(f"has {name or 'content'}={shorten(repr(value), 80)}; expected {expected}")


def number(value: Any, name: str) -> None:
    """Expect a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    _expect(is_number and abs(value) < 1e300 and math.isfinite(value), value, name, "a finite number")


def count(value: Any, name: str) -> None:
    """Expect a whole number >= 0 of at most 63 bits."""
    _expect(type(value) is int and 0 <= value < 2**63, value, name, "a whole number >= 0")


def text(value: Any, name: str) -> None:
    """Expect a text."""
    _expect(isinstance(value, str), value, name, "a text")


def stem(value: Any, name: str) -> None:
    """Expect a text that can be part of a file name."""
    fits = isinstance(value, str) and 0 < len(value) <= 100 and not set(value) & set("/\\\0")
    _expect(fits, value, name, "a short name without slashes")


def flag(value: Any, name: str) -> None:
    """Expect true or false."""
    _expect(isinstance(value, bool), value, name, "true or false")


def anything(value: Any, name: str) -> None:
    """Expect nothing in particular."""


def maybe(check: Check) -> Check:
    """Allow null as well: not measured."""

    def run(value: Any, name: str) -> None:
        """Raise InputError for a value of another type."""
        if value is not None:
            check(value, name)

    return run


def each(check: Check, length: int | None = None) -> Check:
    """Expect a list of entries, of this length if it is given."""

    def run(value: Any, name: str) -> None:
        """Raise InputError for a value of another type."""
        fits = isinstance(value, list) and length in (None, len(value))
        _expect(fits, value, name, "a list" if length is None else f"a list of {length}")
        for index, one in enumerate(value):
            check(one, f"{name}[{index}]")

    return run


def named(check: Check) -> Check:
    """Expect entries by name, all of one type."""

    def run(value: Any, name: str) -> None:
        """Raise InputError for a value of another type."""
        _expect(isinstance(value, dict), value, name, "entries by name")
        for key, one in value.items():
            check(one, f"{name}.{key}" if name else str(key))

    return run


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Expect an entry for each required name; optional ones may be null or missing, others are not read."""

    def run(value: Any, name: str) -> None:
        """Raise InputError for a value of another type."""
        _expect(isinstance(value, dict), value, name, "entries by name")
        for key, check in required.items():
            _expect(key in value, value, name, f"an entry {key}")
            check(value[key], f"{name}.{key}" if name else key)
        for key, check in (optional or {}).items():
            maybe(check)(value.get(key), f"{name}.{key}" if name else key)

    return run


def either(*checks: Check) -> Check:
    """Expect what one of several checks expects; the last one gives the message."""

    def run(value: Any, name: str) -> None:
        """Raise InputError for a value of another type."""
        for check in checks[:-1]:
            try:
                return check(value, name)
            except InputError:
                continue
        return checks[-1](value, name)

    return run


_INTERVAL = each(number, 2)
_CLASSES = either(count, text, each(either(count, text)))
_MEASURED = {measure.key: number for measure in MEASURES}

_CONDITION = record(
    {"label": either(count, text)},
    {
        "own": number,
        "forgotten": number,
        "own_interval": _INTERVAL,
        "forgotten_interval": _INTERVAL,
        "fd_target": number,
        "fd_real": number,
    },
)
_ASKED = record(
    {"conditions": each(_CONDITION)},
    {
        **dict.fromkeys(
            ("forgotten", "own", "least_own", "ua", "ra", "neighbours", "null", "guided"), number
        ),
        **dict.fromkeys(("fd_target", "fd_real"), number),
        "guidance": named(number),
        "n": count,
        "intervals": named(maybe(_INTERVAL)),
    },
)
_AUCS = tuple(f"{attack}_{score}" for attack, scores in SCORES.items() for score in scores)
_RELEARNED = ("relearned", "fewest_steps", "fewest_steps_ratio")
_SEARCHES = ("latent_search", *CONDITION_ATTACKS)
_ATTACKED = record(
    {},
    {
        **dict.fromkeys((*_SEARCHES, *_AUCS, *_RELEARNED), number),
        "worse_than_retrained": count,
        "intervals": named(maybe(_INTERVAL)),
    },
)
_QUESTIONS = record(
    {},
    {
        "n": count,
        "labels": each(count),
        "guidance": each(number),
        "null": flag,
        "neighbours": each(count),
        "num_conditions": count,
        "obstacle": text,
    },
)
_ROW = record(
    {"family": stem, "method": stem},
    {
        "seed": count,
        "n": count,
        "options": named(anything),
        "extractor": text,
        "class_counts": each(number),
        "transition": each(each(number)),
        "original_recoverable": flag,
        "data_used": each(text),
        "cost": named(maybe(number)),
        "intervals": named(maybe(_INTERVAL)),
        "told_apart": named(maybe(record({}, {"auc": number, "interval": _INTERVAL}))),
        "redistribution": named(maybe(number)),
        "classes": each(named(maybe(number))),
        "asked": _ASKED,
        "attacked": _ATTACKED,
        **_MEASURED,
    },
)
_JUDGE = record(
    {}, {"name": text, "sha256": text, "independent_of_guide": flag, "accuracy": number, "n_held_out": count}
)
_DIFFERENCE = record(
    {
        "family": text,
        "method": text,
        "reference": text,
        "measure": text,
        "difference": maybe(number),
        "interval": maybe(_INTERVAL),
        "resolved": maybe(flag),
    }
)
_CURVE = each(each(number, 2))
_STEPS = named(maybe(number))
_SETTING = record(
    {"learning_rate": number, "free_decoder": flag, "curves": named(maybe(_CURVE)), "steps_to_half": _STEPS},
    {"ratio": named(number)},
)
_FEWEST = record({"learning_rate": number, "free_decoder": flag, "steps": number})
_REACHED = record(
    {},
    {
        "obstacle": text,
        "success_share": number,
        "interval": _INTERVAL,
        "base": number,
        "selected": number,
        "samples": count,
        "at": record({}, {"guidance": number, "labels": each(count), "set": text, "shares": named(number)}),
    },
)
_SCORED = record(
    {},
    {
        "obstacle": text,
        "points": text,
        "positive": count,
        "negative": count,
        "scores": named(
            record(
                {"auc": number, "interval": _INTERVAL},
                {"difference": number, "difference_interval": _INTERVAL, "resolved": flag, "worse": flag},
            )
        ),
    },
)
_ATTACKS = record(
    {
        "inside": named(maybe(record({"forget_rate": number}))),
        "latent_search": named(maybe(record({"success_share": number, "interval": _INTERVAL}))),
        "relearning": record(
            {
                "half": number,
                "steps": count,
                "images": named(
                    record({"curves": named(maybe(_CURVE)), "steps_to_half": named(maybe(number))})
                ),
            },
            {
                "labelled": flag,
                "sweep": record({"images": count, "settings": each(_SETTING)}),
                "fewest": named(maybe(_FEWEST)),
                "fewest_ratio": named(number),
            },
        ),
    },
    dict.fromkeys(CONDITION_ATTACKS, named(_REACHED)) | dict.fromkeys(SCORE_ATTACKS, named(_SCORED)),
)
_AUDIT = record(
    {"rows": each(_ROW)},
    {
        "judge": _JUDGE,
        "second_judge": _JUDGE,
        "floor": named(maybe(named(maybe(number)))),
        "request": record(
            {}, {"forget": _CLASSES, "words": text, "strength": number, "margin": number, "divergence": text}
        ),
        "class_names": each(either(text, count)),
        "differences": each(_DIFFERENCE),
        "notes": each(text),
        "attacks": _ATTACKS,
        "questions": _QUESTIONS,
        "versions": named(text),
        "guards": each(record({"holds": maybe(flag), "name": text, "words": text})),
        "verdicts": named(each(text)),
    },
)


def check_audit(audit: Any, where: str) -> None:
    """Raise InputError, with the name of the field, unless every field that is read has its type.

    Args:
        audit: the content of audit.json.
        where: the file, for the message.
    """
    try:
        _AUDIT(audit, "")
        _check_sizes(audit)
    except InputError as error:
        raise InputError(f"{where} {error}: run `unflow audit` again") from None


def _check_sizes(audit: dict[str, Any]) -> None:
    """Raise InputError for a transition matrix that is not square."""
    for index, row in enumerate(audit["rows"]):
        matrix = row.get("transition") or []
        square = all(len(line) == len(matrix) for line in matrix)
        _expect(square, matrix, f"rows[{index}].transition", "as many columns as rows")
