"""What goes wrong, in one sentence: bad input, a training that diverges, the choice of a member by name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """One sentence: what we got, what we expected, what to write instead.

    The command line prints the sentence alone and exits with code 2; in Python it is a ``ValueError``.
    """


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite; nothing is saved from such a run."""


def explain(error: Exception) -> str:
    """Return what somebody else's error says, in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def one_sentence(what: str, expected: str) -> Iterator[None]:
    """Have whatever somebody else's code raises within said in one sentence, "what (error); expected ...".

    Raises:
        InputError: the sentence; or one that is raised within, as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # somebody else's code raises anything
        raise InputError(f"{what} ({explain(error)}); expected {expected}") from error


def suggest(name: str, known: Collection[str], expected: str = "") -> str:
    """Return "did you mean ...?" with the nearest of the known names; if none is near, what is expected.

    Args:
        name: that was written.
        known: names that there are.
        expected: words before the list of the known names.
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected {expected}one of {', '.join(known)}"


def choose(members: Mapping[str, T], name: object, what: str) -> T:
    """Return the member of that name from a family's literal dict.

    Raises:
        InputError: for an unknown name, with the known ones; ``what`` says what is chosen.
    """
    if not isinstance(name, str) or name not in members:
        raise InputError(f"got the {what} {name!r}; expected one of {', '.join(members)}")
    return members[name]
