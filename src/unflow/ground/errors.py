"""Errors and their messages, and the choice of a member by name."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class InputError(ValueError):
    """Bad input; the message states what we got, what we expected and what to write instead.

    It is a ``ValueError``. The command line prints the message without a traceback and exits with code 2.
    """


class TrainingDivergedError(RuntimeError):
    """A loss became NaN or infinite; nothing is saved from such a run."""


class RunFailedError(RuntimeError):
    """Third-party code raised an exception in the middle of a run; the same command continues the run."""


def explain(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def shorten(text: str, length: int = 200) -> str:
    """Return a text cut after some characters."""
    return text if len(text) <= length else f"{text[:length]} ..."


def locate(error: BaseException) -> str:
    """Return "FILE:LINE" where an error was raised: the innermost line outside of installed packages.

    The innermost line of all is returned if there is no other; "" for an error without a traceback.
    """
    lines = traceback.extract_tb(error.__traceback__)
    if not lines:
        return ""
    own = [line for line in lines if not _is_installed(Path(line.filename))]
    chosen = own[-1] if own else lines[-1]
    return f"{chosen.filename}:{chosen.lineno}"


def _is_installed(file: Path) -> bool:
    """Return whether a source file is unflow's, another installed package's or Python's own."""
    return file.is_relative_to(Path(__file__).parents[1]) or bool(
        {"site-packages", "dist-packages"}.intersection(file.parts) or file.name.startswith("<")
    )


@contextmanager
def convert_errors(what: str, expected: str) -> Iterator[None]:
    """Convert errors of third-party code within this context to an ``InputError``.

    Raises:
        InputError: with the message "what (error); expected ..."; an ``InputError`` passes unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # third-party code may raise any exception
        raise InputError(f"{what} ({explain(error)}); expected {expected}") from error


def suggest(name: str, known: Collection[str], expected: str = "") -> str:
    """Return "did you mean ...?" with the most similar name, or "expected one of ..." if there is none.

    Args:
        name: the unknown name.
        known: the valid names.
        expected: words before "one of".
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected {expected}one of {', '.join(known)}"


def choose(members: Mapping[str, T], name: object, what: str) -> T:
    """Return the member with this name.

    Raises:
        InputError: for an unknown name. The message lists the known names and calls the member ``what``.
    """
    if not isinstance(name, str) or name not in members:
        raise InputError(f"got the {what} {name!r}; expected one of {', '.join(members)}")
    return members[name]


def require_at_least(settings: object, **least: int) -> None:
    """Raise InputError for a field of the settings that is below its least value."""
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise InputError(f"got {name}={getattr(settings, name)}; expected {value} or more")
