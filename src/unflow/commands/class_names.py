"""Classes to forget by their names: `--forget cat` and `--forget 3` are one request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unflow.ground.errors import InputError, suggest

_NUMBER = re.compile(r"\s*-?\d+\s*")


def has_names(forget: str | Sequence[object]) -> bool:
    """Return whether classes to forget are given by names, at least one of them."""
    parts = forget.split(",") if isinstance(forget, str) else [str(part) for part in forget]
    return any(part.strip() and not _NUMBER.fullmatch(part) for part in parts)


def number_classes(
    forget: str | Sequence[object], names: Sequence[str] | None, owner: str
) -> tuple[int, ...]:
    """Return the numbers of classes that are given by numbers or names.

    Args:
        forget: "3", "cat", "3,cat", or a list; a name that contains a comma stands alone.
        names: of all classes, in order; None if there are none.
        owner: of the names, for messages: "the guide".

    Raises:
        InputError: for a name that no class has, or that two have.
    """
    from unflow.unlearning.sight import is_anonymous

    if names is None or is_anonymous(names):
        raise InputError(
            f"got --forget {forget!r}, and neither a classifier nor labelled data have class names; expected "
            "classes like 3 or 3,5: write their numbers"
        )
    if isinstance(forget, str):
        whole = _find(forget, names)
        parts: list[str] = [forget] if len(whole) == 1 else forget.split(",")
    else:
        parts = [str(part) for part in forget]
    return tuple(_number(part.strip(), names, owner) for part in parts)


def _number(part: str, names: Sequence[str], owner: str) -> int:
    if _NUMBER.fullmatch(part):
        return int(part)
    found = _find(part, names)
    if len(found) != 1:
        why = "the name of no class" if not found else f"the name of {len(found)} classes"
        raise InputError(
            f"got --forget {part!r}, {why} of {owner}; {suggest(part, names, 'a class number, or ')}"
        )
    return found[0]


def _find(name: str, names: Sequence[str]) -> list[int]:
    """Return the classes with a name: exactly, or else up to case and punctuation."""
    from unflow.unlearning.sight import plain_name

    exact = [k for k, known in enumerate(names) if known == name]
    plain = plain_name(name)
    return exact or [k for k, known in enumerate(names) if plain and plain_name(known) == plain]
