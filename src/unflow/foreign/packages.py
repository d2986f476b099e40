"""Energies that installed packages add: one function, with options that a line of words gives it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from unflow.energies import Energy
from unflow.foreign.line import Foreign
from unflow.foreign.wanted import Wanted
from unflow.ground.errors import InputError

FromLine = Callable[[Foreign, Wanted], Energy]
"""A line, and what is asked of it -> an energy."""


def of_package(function: Callable[..., Energy]) -> FromLine:
    """Return how a line becomes an energy by ``function(what, *, forget, margin, **options)``.

    ``KIND:WHAT@WEIGHTS,name=value`` gives it ``what``, the classes to ``forget`` and the ``margin`` of the
    command (``()`` where none was said), ``weights`` (a path) where there are some, and the options as YAML
    reads their values.

    Raises:
        TypeError: for what is no function.
    """
    takes = inspect.signature(function)

    def make(line: Foreign, wanted: Wanted) -> Energy:
        given = {"forget": wanted.classes or (), "margin": wanted.margin}
        options = _options(line, takes, given)
        energy = function(line.what, **options)
        if not isinstance(energy, Energy):
            raise InputError(
                f"{line.kind}:{line.what} returned a {type(energy).__name__}; expected an energies.Energy: "
                "mend the package that adds this kind"
            )
        return energy

    return make


def _options(line: Foreign, takes: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a function, which takes them.

    Raises:
        InputError: for options that it does not take, and such as it needs.
    """
    weights = {} if line.weights is None else {"weights": line.weights}
    options = {**line.take({})[1], **weights, **given}
    try:
        takes.bind(line.what, **options)
    except TypeError as error:
        names = [name for name in list(takes.parameters)[1:] if name not in given]
        raise InputError(
            f"got {line.kind}:{line.what} with options that it does not take ({error}); expected name=value "
            f"for {', '.join(names) or 'nothing'}"
        ) from error
    return options
