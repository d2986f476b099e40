"""What goes wrong, in one sentence: bad input, a training that diverges, the choice of a member by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """One sentence: what we got, what we expected, what to write instead.

    The command line prints the sentence alone and exits with code 2; in Python it is a ``ValueError``.
    """


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite; nothing is saved from such a run."""


def said(error: Exception) -> str:
    """Return what somebody else's error says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def choose(members: Mapping[str, T], name: object, what: str) -> T:
    """Return the member of that name from a family's literal dict.

    Raises:
        InputError: for an unknown name, with the known ones; ``what`` says what is chosen.
    """
    if not isinstance(name, str) or name not in members:
        raise InputError(f"got the {what} {name!r}; expected one of {', '.join(members)}")
    return members[name]
